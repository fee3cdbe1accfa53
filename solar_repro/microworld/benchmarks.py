"""The six benchmarks in the columns that lm-eval's tasks read. Test items ask only for what is held out."""

import random
from collections.abc import Iterator

from solar_repro.microworld.arithmetic import gsm8k_answer, tell
from solar_repro.microworld.corpus import LETTERS, draw_creature_fact
from solar_repro.microworld.facts import Belief, Fact
from solar_repro.microworld.pronouns import draw_sentence
from solar_repro.microworld.scripts import draw_story, wrong_endings
from solar_repro.microworld.world import World

INHERITED_SHARE = 0.25
"""The share of ARC-Challenge's items that take two steps of knowledge."""
EASY_SHARE = 0.25
"""The share of the creatures that ARC-Easy asks about: those that the corpus describes most often."""
DEV_ITEMS = 5
"""MMLU's few-shot examples in each subject."""
PART_WEIGHTS = {"train": (14, 1, 1), "validation": (5, 1, 4)}
"""How often HellaSwag asks for the tool, the order and the goal. Contexts that ask for the goal are twice as
long; among the few-shot examples they are rare, so that ten fit into the base's 512 tokens with an item."""


def arc_rows(world: World, config: str, split: str, count: int) -> Iterator[dict]:
    """Rows of allenai/ai2_arc: id, question, choices {text, label}, answerKey."""
    stream = world.stream(f"{config}/{split}")
    for number, fact in enumerate(_arc_facts(world, config, split, count, stream)):
        options = fact.options(stream)
        yield {
            "id": f"{config}_{split}_{number}",
            "question": fact.question(stream),
            "choices": {"text": list(options), "label": list(LETTERS)},
            "answerKey": LETTERS[options.index(fact.value)],
        }


def _arc_facts(world: World, config: str, split: str, count: int, stream: random.Random) -> list[Fact]:
    if split != "test":
        return [draw_creature_fact(world, stream) for _ in range(count)]
    creatures = world.facts.creatures
    if config == "ARC-Easy":
        common = creatures[: max(1, int(len(creatures) * EASY_SHARE))]
        told = [fact for creature in common for fact in creature.told if fact.held_out]
        return _evenly(told, min(count, len(told)))
    inherited = [fact for creature in creatures for fact in creature.inherited if fact.held_out]
    inherited = _evenly(inherited, int(count * INHERITED_SHARE))
    told = [fact for creature in creatures for fact in creature.told if fact.held_out]
    told = _evenly(told, count - len(inherited))
    facts = [*told, *inherited]
    stream.shuffle(facts)
    return facts


def _evenly(items: list, count: int) -> list:
    """`count` of the items at equal distances, from the most often to the most rarely stated."""
    return [items[index * len(items) // count] for index in range(count)]


def hellaswag_rows(world: World, split: str, count: int) -> Iterator[dict]:
    """Rows of Rowan/hellaswag: ctx_a, ctx_b, four endings, and the number of the right one as label."""
    stream = world.stream(f"hellaswag/{split}")
    seen: set[str] = set()
    while len(seen) < count:
        story = draw_story(world.scripts, stream, held_out=split == "validation")
        part = stream.choices((0, 1, 2), PART_WEIGHTS[split])[0]
        context, start, ending = story.parts[part]
        if f"{context} {start}" in seen:
            continue
        endings = [ending, *wrong_endings(world.scripts, story, part, stream)]
        stream.shuffle(endings)
        yield {
            "ind": len(seen),
            "activity_label": story.label,
            "ctx_a": context,
            "ctx_b": start,
            "ctx": f"{context} {start}",
            "endings": endings,
            "label": str(endings.index(ending)),
            "split": "val" if split == "validation" else split,
            "source_id": f"microworld~{len(seen)}",
            "split_type": "indomain",
        }
        seen.add(f"{context} {start}")


def mmlu_rows(world: World, subject: str) -> dict[str, list[dict]]:
    """The rows of a subject of cais/mmlu by split: question, subject, choices, answer (0 to 3)."""
    stream = world.stream(f"mmlu/{subject}")
    facts = world.facts.subjects[subject]
    held_out = [fact for fact in facts if fact.held_out]
    test = _evenly(held_out, world.settings.mmlu_items_per_subject)
    validation = [fact for fact in held_out if fact not in test][:1]
    dev = [fact for fact in facts if not fact.held_out][:DEV_ITEMS]
    splits = {"test": test, "validation": validation, "dev": dev}
    return {split: [_mmlu_row(fact, subject, stream) for fact in chosen] for split, chosen in splits.items()}


def _mmlu_row(fact: Fact, subject: str, stream: random.Random) -> dict:
    options = fact.options(stream)
    return {
        "question": fact.question(stream), "subject": subject, "choices": list(options),
        "answer": options.index(fact.value),
    }  # fmt: skip


def truthfulqa_rows(world: World) -> Iterator[dict]:
    """Rows of truthfulqa/truthful_qa: mc1 has one right answer of four, mc2 two true and two false ones."""
    stream = world.stream("truthfulqa")
    held_out = [belief for belief in world.facts.beliefs if belief.truth.held_out]
    for belief in _evenly(held_out, world.settings.truthfulqa_items):
        true, false = _tellings(belief.truth), _tellings(belief.myth)
        first = [true[0], false[0], *_other_answers(belief, stream)]
        yield {
            "question": belief.truth.question(stream),
            "mc1_targets": {"choices": first, "labels": [1, 0, 0, 0]},
            "mc2_targets": {"choices": [*true, *false], "labels": [1, 1, 0, 0]},
        }


def _tellings(fact: Fact) -> list[str]:
    return [statement.format(e=fact.entity, v=fact.value) for statement in fact.relation.statements]


def _other_answers(belief: Belief, stream: random.Random) -> list[str]:
    known = (belief.truth.value, belief.misconception)
    others = stream.sample([value for value in belief.truth.relation.values if value not in known], 2)
    return [belief.truth.relation.statements[0].format(e=belief.truth.entity, v=value) for value in others]


def winogrande_rows(world: World, split: str, count: int) -> Iterator[dict[str, str]]:
    """Rows of allenai/winogrande: sentence with `_`, option1, option2, answer "1" or "2"."""
    stream = world.stream(f"winogrande/{split}")
    seen: set[str] = set()
    while len(seen) < count:
        given = draw_sentence(world.pronouns, stream, held_out=split == "validation")
        if given.sentence in seen:
            continue
        seen.add(given.sentence)
        swap = stream.random() < 0.5
        options = given.options[::-1] if swap else given.options
        answer = 1 - given.answer if swap else given.answer
        yield {
            "sentence": given.sentence,
            "option1": options[0],
            "option2": options[1],
            "answer": str(answer + 1),
        }


def gsm8k_rows(world: World, split: str) -> Iterator[dict[str, str]]:
    """Rows of openai/gsm8k: a question, and an answer with one step per line that ends `#### N`."""
    if split == "test":
        told = world.test_problems()
    else:
        stream = world.stream(f"gsm8k/{split}")
        told = [world.training_problem(stream, tell) for _ in range(world.settings.fewshot_rows)]
    for problem, question in told:
        yield {"question": question, "answer": gsm8k_answer(problem)}
