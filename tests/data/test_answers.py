import pytest

from solar_repro.data.answers import final_answer, same_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So we get 3.\nThe answer is: 3", "3"),
        ("The answer is: $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("First The answer is: 1\nno, The answer is: 2", "2"),
        ("Thus $x=\\boxed{\\frac{3}{4}}$.", "\\frac{3}{4}"),
        ("$\\boxed{1}$ or rather $\\boxed{\\{1, 2\\}}$", "\\{1, 2\\}"),
        ("\\boxed 7$.", "7"),
        ("\\boxed{12} and so The answer is: 12", "12"),
        ("The answer is:", None),
        ("\\boxed{never closed", None),
        ("no answer at all", None),
        ("", None),
    ],
)
def test_final_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("\\frac{1}{2}", "0.5"),
        ("1/2", "$\\dfrac12$"),
        ("180\\text{ miles}", "180"),
        ("12 cm", "12"),
        ("\\$15,\\!000", "15000"),
        ("$\\$40$", "40"),
        ("1,234", "1234"),
        ("50\\%", "50\\%"),
        ("(x-1)(x+2)", "x^2+x-2"),
        ("(3, 4)", "(3,4)"),
        ("[1,\\infty)", "[1, \\infty)"),
        ("\\sqrt{8}", "2\\sqrt{2}"),
        ("\\text{Evelyn}", "Evelyn"),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
        ("x = 5", "5"),
        ("{1, 2}", "\\{2, 1\\}"),
    ],
)
def test_equal(first, second):
    assert same_answer(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2", "3"),
        ("\\frac{1}{2}", "\\frac{1}{3}"),
        ("(3,4)", "(4,3)"),
        ("[1,\\infty)", "(1,\\infty)"),
        ("\\text{Evelyn}", "\\text{Bob}"),
        ("2\\sqrt{2}", "2"),
        ("x^2", "x^3"),
        ("5", ""),
        ("I cannot tell", "5"),
    ],
)
def test_different(first, second):
    assert not same_answer(first, second)
