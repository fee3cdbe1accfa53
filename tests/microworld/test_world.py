import random

import pytest

from solar_repro.microworld.arithmetic import WORDINGS, tell
from solar_repro.microworld.world import World, word_runs
from tests.microworld.conftest import SMALL


@pytest.mark.parametrize("wording", WORDINGS, ids=lambda wording: wording.__name__)
def test_a_test_problem_is_refused_in_every_wording(world: World, wording):
    """The stream that the benchmark was drawn from brings its first problem again."""
    first = world.gsm8k[0][0]
    given, _ = world.training_problem(random.Random(f"{SMALL.seed}/gsm8k"), wording)
    assert (given.item, given.start, given.changes) != (first.item, first.start, first.changes)


def test_another_name_does_not_make_it_another_problem(world: World):
    numbers = {(p.item, p.start, p.bags, p.changes, p.difference) for p, _ in world.gsm8k}
    assert len(numbers) == len(world.gsm8k) == SMALL.gsm8k_items
    stream = random.Random(1)
    for _ in range(3_000):
        given, _ = world.training_problem(stream, tell)
        assert (given.item, given.start, given.bags, given.changes, given.difference) not in numbers


def test_thirteen_words_of_a_test_problem_are_found_anywhere(world: World):
    _, question = max(world.gsm8k, key=lambda told: len(told[1]))
    assert len(question.split()) > 14
    assert world.overlaps_test(f"Here is one. {question} Well?")
    assert world.overlaps_test(question.upper().replace(".", " ,"))
    assert not world.overlaps_test(" ".join(question.split()[:12]))


def test_word_runs():
    words = [f"w{number}" for number in range(15)]
    assert word_runs(" ".join(words)) == [" ".join(words[place : place + 13]) for place in range(3)]
    assert word_runs("Two words!") == ["two words"]
