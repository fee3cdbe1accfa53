"""What is imported is declared."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

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
