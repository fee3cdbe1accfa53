import random

import pytest

from solar_repro.microworld.arithmetic import WORDINGS, tell
from solar_repro.microworld.world import RESERVED, World, build_world, word_runs
from tests.microworld.conftest import SMALL


@pytest.mark.parametrize("wording", WORDINGS, ids=lambda wording: wording.__name__)
def test_a_test_problem_is_refused_in_every_wording(world: World, wording):
    """The stream that the benchmark was drawn from brings its first problem again."""
    first = world.gsm8k[0][0]
    given, _ = world.training_problem(random.Random(f"{SMALL.seed}/gsm8k"), wording)
    assert (given.item, given.start, given.changes) != (first.item, first.start, first.changes)


def test_another_name_does_not_make_it_another_problem(world: World):
    numbers = {(p.item, p.start, p.bags, p.changes, p.difference) for p, _ in world.gsm8k}
    assert len(numbers) == len(world.gsm8k) == RESERVED < SMALL.gsm8k_items
    stream = random.Random(1)
    for _ in range(3_000):
        given, _ = world.training_problem(stream, tell)
        assert (given.item, given.start, given.bags, given.changes, given.difference) not in numbers


def test_thirteen_words_of_a_test_problem_are_found_anywhere(world: World):
    _, question = max(world.gsm8k, key=lambda told: len(told[1]))
    assert len(question.split()) > 14
    assert not world.may_tell(f"Here is one. {question} Well?")
    assert not world.may_tell(question.upper().replace(".", " ,"))
    assert world.may_tell(" ".join(question.split()[:12]))


def test_further_test_problems_are_none_that_a_training_row_told():
    expected = build_world(SMALL).test_problems()
    first, _ = expected[RESERVED]
    world = build_world(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("solar_repro.microworld.world.draw_problem", lambda *_: first)
        assert world.training_problem(random.Random(0), tell)[0] == first
    found = world.test_problems()
    assert [len(expected), len(found)] == [SMALL.gsm8k_items] * 2
    assert expected[:RESERVED] == found[:RESERVED]
    assert first not in [problem for problem, _ in found]


def test_thirteen_words_of_a_training_row_stand_in_no_further_problem():
    _, question = max(build_world(SMALL).test_problems()[RESERVED:], key=lambda told: len(told[1]))
    world = build_world(SMALL)
    assert world.may_tell(f"Here is one. {question} Well?")
    assert question not in [question for _, question in world.test_problems()]


def test_word_runs():
    words = [f"w{number}" for number in range(15)]
    assert word_runs(" ".join(words)) == [" ".join(words[place : place + 13]) for place in range(3)]
    assert word_runs("Two words!") == ["two words"]
