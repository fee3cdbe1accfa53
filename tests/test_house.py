"""The rooms of the code: imports point one way, docs/house.md draws them as they are, and types fit."""

import importlib.util
import re
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT

SPEC = importlib.util.spec_from_file_location("house", ROOT / ".ci" / "house.py")
house = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(house)


def test_imports_keep_the_contracts_of_pyproject():
    # In a process of its own: it closes the standard output that pytest captures.
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_drawing_shows_the_imports_as_they_are():
    names = house.rooms()
    drawn = house.picture(names, house.imports(names))
    assert house.PICTURE.read_text(encoding="utf-8") == drawn, "draw it again: python .ci/house.py"


def test_the_page_tells_what_each_room_holds_in_their_order():
    page = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    table = page.partition("<!-- rooms -->\n")[2].partition("<!-- /rooms -->")[0]
    told = re.findall(r"^\| `([\w/]+)` \|", table, re.MULTILINE)
    assert told == [name.removeprefix("solar_repro.") for name in house.rooms()]


def test_modules_that_are_not_yet_typed_exist():
    """Whoever removes or mends one takes it off the list."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    (names,) = [one["module"] for one in settings["overrides"] if one.get("ignore_errors")]
    paths = [ROOT / f"{name.replace('.', '/')}.py" for name in names]
    assert [str(path) for path in paths if not path.is_file()] == []


@pytest.mark.slow
def test_types_fit(tmp_path):
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
