"""What is imported is declared, and what is declared can be installed on every supported Python."""

import re
import subprocess
import sys
import tomllib
from itertools import chain

import pytest
import yaml

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FIRST, END = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups())
PYTHONS = [f"3.{minor}" for minor in range(FIRST, END)]
PACKAGES = ["solar_repro", "entry_points", "benchmarks"]


def run(*command):
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(PACKAGES, id="packages"),
        # Tests do not use every dependency (DEP002), and those of the extra `test` are theirs (DEP004).
        pytest.param(["tests", "--ignore", "DEP002,DEP004"], id="tests"),
    ],
)
def test_what_is_imported_is_declared(arguments):
    done = run("-m", "deptry", *arguments, "--no-ansi")
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"Scanning (\d+) files", done.stderr).group(1)) > 50


def test_readme_and_workflow_name_the_supported_pythons():
    workflow = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == PYTHONS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {', '.join(PYTHONS[:-1])} or {PYTHONS[-1]}, in a virtual environment" in readme


def test_nothing_of_the_standard_library_is_on_its_way_out():
    """A deprecation fails this test: the next Python may lack what this one has."""
    code = (
        "import ast, pathlib, sys\n"
        "for path in (path for folder in sys.argv[1:] for path in pathlib.Path(folder).rglob('*.py')):\n"
        "    tree = ast.parse(path.read_text(encoding='utf-8'), str(path))\n"
        "    compile(tree, str(path), 'exec')\n"
        "    for node in ast.walk(tree):\n"
        "        if isinstance(node, ast.Import):\n"
        "            modules = [alias.name for alias in node.names]\n"
        "        elif isinstance(node, ast.ImportFrom) and not node.level:\n"
        "            modules = [node.module]\n"
        "        else:\n"
        "            continue\n"
        "        if all(name.partition('.')[0] in sys.stdlib_module_names for name in modules):\n"
        "            exec(compile(ast.Module([node], []), str(path), 'exec'), {})\n"
    )
    done = run("-W", "error", "-c", code, *PACKAGES, "tests")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_has_a_wheel_on_every_supported_python(python):
    """Whatever the pins need is resolved with them, from metadata: no wheel is fetched.

    DeepSpeed publishes its source alone, and builds for any Python.
    """
    extras = {**PROJECT["optional-dependencies"], "deepspeed": []}
    pins = chain(PROJECT["dependencies"], *extras.values())
    wheels_only = [f"--only-binary={pin.partition('==')[0]}" for pin in pins]
    target = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    command = ["-m", "uv", "pip", "compile", "--no-python-downloads"]
    command += [f"--extra={extra}" for extra in extras if extra != "deepspeed"]
    done = run(*command, *target, *wheels_only, "pyproject.toml")
    if "Failed to fetch" in done.stderr:
        pytest.skip(f"no package registry answers: {done.stderr.strip().splitlines()[-1].strip()}")
    assert done.returncode == 0, done.stderr
