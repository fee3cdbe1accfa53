"""Final answers of worked mathematics problems, and when two are equal."""

import re

MARK = "The answer is:"
"""What ends a solution in MetaMathQA."""


def final_answer(text: str) -> str | None:
    """The answer a solution ends with: after the last "The answer is:", else its last \\boxed{}; or None."""
    before, mark, after = text.rpartition(MARK)
    if mark:
        return after.strip().removesuffix(".").strip() or None
    start = before.rfind("\\boxed") if before else text.rfind("\\boxed")
    return _in_braces(text[start + len("\\boxed") :]) if start >= 0 else None


def _in_braces(text: str) -> str | None:
    """Content of the braces that `text` begins with (or, as in `\\boxed 5`, its first word)."""
    if not text.startswith("{"):
        return next(iter(re.findall(r"\S+", text)), "").rstrip("$.,") or None
    depth = 0
    for place, sign in enumerate(text):
        escaped = place > 0 and text[place - 1] == "\\"
        depth += 0 if escaped else (sign == "{") - (sign == "}")
        if depth == 0:
            return text[1:place].strip() or None
    return None


def same_answer(first: str, second: str) -> bool:
    """Whether two final answers are equal as mathematics (LaTeX, fractions, units), by math-verify.

    Call it from the main thread: the library stops endless comparisons by a signal.
    """
    from math_verify import parse, verify

    if first.strip() == second.strip():
        return True
    return verify(parse(_as_latex(first)), parse(_as_latex(second)))


def _as_latex(answer: str) -> str:
    answer = answer.replace("\\$", "")  # of an amount of money
    return answer if "$" in answer else f"${answer}$"
