"""An independent reader of word problems: it knows the words, and nothing of how problems are made."""

import re

UP = r"gets|buys|finds|adds|receives|puts in"
DOWN = r"loses|sells|gives away|removes|uses up|takes out"
BOTH = r"(\d+) (more|fewer)\b[^.?]*\. (?:How many|Find)[^.?]*(?:together|sum of both|in all)"


def read_problem(text: str) -> int:
    """The answer of a word problem in any of its wordings, from its words alone."""
    have = int(re.search(r"(?:has|owns|are) (\d+)", text)[1])
    if found := re.search(r"has \d+ bags with (\d+)|owns \d+ boxes of (\d+)|in each of the (\d+) bags", text):
        have *= int(next(number for number in found.groups() if number))
    for verb, number in re.findall(rf"\b({UP}|{DOWN}) (\d+)", text):
        have += int(number) if re.fullmatch(UP, verb) else -int(number)
    if found := re.search(BOTH, text):
        have += have + int(found[1]) * (1 if found[2] == "more" else -1)
    return have


def check_lines(text: str) -> int:
    """The last result of the text, once every `a o b = c` in it is right by Python's own arithmetic."""
    steps = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", text)
    assert steps, text
    for left, operator, right, result in steps:
        assert eval(f"{left} {operator} {right}") == int(result), text  # noqa: S307 # digits alone
    return int(steps[-1][-1])
