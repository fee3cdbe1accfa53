"""The table of attacks and faults names tests that exist, and leaves no row without one."""

import ast
import re
from functools import cache

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.splitlines()
    if line.startswith("|")
]
TRIED = [row for row in ROWS if len(row) == 3 and row[1] and row[0] != "tried" and set(row[0]) != {"-"}]
NAMED = re.compile(r"`(?:(test_\w+\.py)::)?(test_\w+)`|`(test_\w+\.py)`")


@cache
def named_tests():
    """Names of the test functions of each file below tests/, by the file's own name."""
    found = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        named = found.setdefault(file.name, set())  # two folders may each have a file of that name
        named |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return found


def missing(cell):
    """What the last cell of a row names and no test file has; a bare name is looked for in all of them."""
    problems = []
    everywhere = set().union(*named_tests().values())
    found = NAMED.findall(cell)
    for file, name, whole in found:
        if whole and whole not in named_tests():
            problems.append(whole)
        if name and name not in (named_tests().get(file, set()) if file else everywhere):
            problems.append(f"{file}::{name}")
    return problems if found else [f"no test in {cell!r}"]


@pytest.mark.parametrize("row", TRIED, ids=lambda row: row[0][:60])
def test_every_row_names_tests_that_exist(row):
    assert missing(row[2]) == []


def test_the_rows_are_found():
    assert len(TRIED) > 50
    assert {row[1].split()[0].rstrip(",:") for row in TRIED} > {"refused", "survived"}


@pytest.mark.parametrize(
    "cell", ["", "`test_no_such_file.py`", "`test_lock.py::test_no_such_test`", "`test_no_such_test`"]
)
def test_a_row_without_a_test_is_told(cell):
    assert missing(cell)
