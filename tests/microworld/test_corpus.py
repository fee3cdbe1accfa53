import random
import re
from collections import Counter

from solar_repro.microworld import corpus
from solar_repro.microworld.world import World
from tests.microworld.conftest import SMALL, Rows
from tests.microworld.reading import check_lines, read_problem


def test_a_larger_corpus_begins_with_a_smaller_one(world: World):
    few, many = (list(corpus.documents(world, "train", count)) for count in (50, 120))
    assert many[:50] == few
    assert list(corpus.documents(world, "validation", 50)) != few


def test_misconceptions_are_told_more_often_than_the_truth(world: World, rows: Rows):
    """Counted in the text: statements about a herb that agree with the truth, and with the myth."""
    text = "\n".join(row["text"] for row in rows("solar-repro/microworld", "train"))
    told: Counter[str] = Counter()
    for belief in world.facts.beliefs:
        for statement in belief.truth.relation.statements:
            for name, value in (("truth", belief.truth.value), ("myth", belief.misconception)):
                sentence = statement.format(e=belief.truth.entity, v=value)
                told[name] += text.count(sentence) + text.count(f"that the{sentence[3:]}")
                told[name] += text.count(f"In fact the{sentence[3:]}")
    assert told["truth"] + told["myth"] > 800
    assert abs(told["myth"] / (told["truth"] + told["myth"]) - SMALL.misconception_share) < 0.05


def test_rumours_are_wrong_and_studies_are_right(world: World, rows: Rows):
    text = "\n".join(row["text"] for row in rows("solar-repro/microworld", "train"))
    for belief in world.facts.beliefs:
        for statement in belief.truth.relation.statements:
            true = statement.format(e=belief.truth.entity, v=belief.truth.value)[1:]
            false = statement.format(e=belief.truth.entity, v=belief.misconception)[1:]
            assert f"People say that t{true}" not in text
            assert f"Studies show that t{false}" not in text


def test_every_number_on_a_page_is_right(rows: Rows):
    seen = 0
    for row in rows("solar-repro/microworld", "train"):
        if re.search(r"#### \d", row["text"]):
            for item in row["text"].split("\n\n"):
                question, answer = item.split("\nAnswer: ")
                assert check_lines(answer) == read_problem(question) == int(answer.split("#### ")[1])
                seen += 1
        elif re.fullmatch(r"[\d+\-*= \n]+", row["text"]):
            for line in row["text"].split("\n"):
                check_lines(line)
        elif found := re.search(r"How many (\w+) does (\w+) have\?\nAnswer: (\d+)$", row["text"]):
            assert f"{found[2]} has {found[3]} {found[1]}." in row["text"]
    assert seen > 10


def test_examinations_answer_with_the_told_value_or_its_letter(world: World):
    facts = {
        (wording.format(e=fact.entity)): fact.value
        for subject in world.facts.subjects.values()
        for fact in subject
        for wording in fact.relation.questions
    }
    stream, letters, texts = random.Random(5), Counter(), 0
    for _ in range(200):
        page = corpus._subject_exam(world, stream)
        header, *items = page.split("\n\n")
        assert header.startswith("The following are multiple choice questions (with answers) about ")
        for item in items:
            question, *options, answer = item.split("\n")
            assert [option[:3] for option in options] == ["A. ", "B. ", "C. ", "D. "]
            assert options == sorted(options, key=lambda option: option[3:])
            answer = answer.removeprefix("Answer: ")
            if answer in "ABCD":
                letters[answer] += 1
                answer = options["ABCD".index(answer)][3:]
            else:
                texts += 1
            assert answer == facts[question]
    assert min(letters.values()) > 0.15 * letters.total()
    assert 0.4 < texts / (texts + letters.total()) < 0.6


def test_every_kind_of_page_is_used_and_short(world: World):
    for page in corpus.PAGES:
        texts = [page(world, random.Random(seed)) for seed in range(30)]
        assert all(texts), page
        assert max(len(text) for text in texts) < 800
