import random
import re

from solar_repro.microworld.pronouns import INSIDE, PEOPLE_SENTENCES, comparison, draw_sentence
from solar_repro.microworld.world import World
from tests.microworld.conftest import Rows

# Whom the reason speaks of, by this test's own reading of each sentence: the first or the second person.
SPEAKS_OF_FIRST = {
    "gave the hat": "wanted to help.",
    "asked": "did not know.",
    "thanked": "was helped.",
    "beat": "was fast.",
    "lost to": "was slow.",
    "borrowed": "had no pen.",
    "lent": "had two pens.",
    "taught": "could swim.",
    "learned": "could not swim.",
    "carried": "was strong.",
    "paid": "was hungry.",
    "followed": "was lost.",
}


def answer_of(sentence: str, hardness: dict[str, int]) -> str:
    if found := re.fullmatch(r"The (\w+) does not fit in the (\w+) because _ is too (big|small)\.", sentence):
        return f"the {found[1] if found[3] == 'big' else found[2]}"
    if found := re.fullmatch(r"The (\w+) cannot hold the (\w+) because _ is too (big|small)\.", sentence):
        return f"the {found[1] if found[3] == 'small' else found[2]}"
    if found := re.fullmatch(r"The (\w+) hit the (\w+), and then _ (broke|stayed whole)\.", sentence):
        softer, harder = sorted((found[1], found[2]), key=hardness.__getitem__)
        return f"the {softer if found[3] == 'broke' else harder}"
    first, second = re.findall(r"\b[A-Z]\w+", sentence)
    verb = next(verb for verb in SPEAKS_OF_FIRST if f" {verb} " in sentence)
    return first if sentence.endswith(f"_ {SPEAKS_OF_FIRST[verb]}") else second


def test_the_option_that_fits_is_the_one_an_independent_reading_gives(world: World):
    stream = random.Random(4)
    for held_out in (False, True):
        for _ in range(600):
            given = draw_sentence(world.pronouns, stream, held_out=held_out)
            assert given.options[given.answer] == answer_of(given.sentence, world.pronouns.hardness)
            assert given.sentence.count("_") == 1
            assert (frozenset(given.options) in world.pronouns.held_out) == held_out


def test_the_benchmarks_key_is_the_option_that_an_independent_reading_gives(world: World, rows: Rows):
    for split in ("train", "validation"):
        for row in rows("allenai/winogrande", split, "winogrande_xl"):
            assert row[f"option{row['answer']}"] == answer_of(row["sentence"], world.pronouns.hardness)
            assert row["option1"] != row["option2"]


def test_neither_the_place_nor_the_last_words_give_the_answer_away(world: World):
    """Two cues are needed: each of these two alone leaves both answers open."""
    stream = random.Random(5)
    seen: dict[tuple[str, str], set[int]] = {}
    for _ in range(4_000):
        given = draw_sentence(world.pronouns, stream)
        start = re.sub(r"[Tt]he \w+", "the", given.sentence.split("_")[0])
        start = re.sub(r"\b(?!The\b)[A-Z]\w+", "N", start)
        end = given.sentence.split("_")[1]
        seen.setdefault(("start", start), set()).add(given.answer)
        if "pen" not in end and end not in (" wanted to help.", " was so kind.", " baked it."):
            seen.setdefault(("end", end), set()).add(given.answer)
    starts = [answers for (kind, _), answers in seen.items() if kind == "start"]
    assert all(answers == {0, 1} for answers in starts)
    for end in (" is too big.", " broke.", " stayed whole.", " was fast.", " was slow.", " could swim."):
        assert seen["end", end] == {0, 1}, end


def test_comparisons_agree_with_one_order_and_leave_held_out_pairs_alone(world: World):
    stream = random.Random(6)
    for _ in range(500):
        first, how, second = re.fullmatch(
            r"The (\w+) is (harder|softer) than the (\w+)\.", comparison(world.pronouns, stream)
        ).groups()
        assert (world.pronouns.hardness[first] > world.pronouns.hardness[second]) == (how == "harder")
        assert frozenset((f"the {first}", f"the {second}")) not in world.pronouns.held_out


def test_words_have_two_reasons_and_things_are_no_containers():
    assert all(first != second for _, first, second in PEOPLE_SENTENCES)
    assert len(PEOPLE_SENTENCES) == len(SPEAKS_OF_FIRST)
    assert "suitcase" not in INSIDE
