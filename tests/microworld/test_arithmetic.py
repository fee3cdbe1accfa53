import random

import pytest

from solar_repro.microworld import arithmetic
from tests.microworld.reading import check_lines, read_problem


@pytest.mark.parametrize("wording", arithmetic.WORDINGS, ids=lambda wording: wording.__name__)
def test_the_words_alone_lead_to_the_answer(wording):
    stream = random.Random(1)
    for _ in range(1_500):
        problem = arithmetic.draw_problem(stream)
        text = wording(problem, stream)
        assert read_problem(text) == problem.answer, text


def test_answers_of_every_number_of_steps():
    stream = random.Random(2)
    seen = set()
    for _ in range(1_500):
        problem = arithmetic.draw_problem(stream)
        answer = arithmetic.gsm8k_answer(problem)
        *lines, last = answer.split("\n")
        seen.add(len(lines))
        assert last == f"#### {check_lines(answer)}"
        numbers = [int(word) for word in answer.replace("#", "").split() if word.isdigit()]
        assert all(1 <= number <= arithmetic.LARGEST for number in numbers), answer
    assert seen == {1, 2, 3, 4}


def test_pages_of_sums_are_right():
    stream = random.Random(3)
    for _ in range(300):
        for line in arithmetic.sums_page(stream, 6).split("\n"):
            check_lines(line)
