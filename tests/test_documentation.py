"""Every command, setting, path and link of the README and of docs/ names what exists."""

import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import sys
import tomllib
from functools import cache

import pytest
import yaml

from entry_points.command import DEFAULT_SCALE
from solar_repro.errors import UserError
from solar_repro.paper import variants
from solar_repro.paper.data_sets import DATASETS
from solar_repro.scales.explain import dotted_keys
from solar_repro.scales.load import load_scale, scale_names
from solar_repro.scales.settings import Scale
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
MLFLOW_RUN = {"-e", "-P", "--env-manager", "--experiment-name"}
PATH = r"(?:solar_repro|benchmarks|entry_points|tests|docs|\.ci|\.github)/[\w./*-]+"


def commands(text):
    """The commands of a page: of its `bash` blocks, of `$` lines in `console` blocks, and in inline code."""
    found = []
    for language, block in re.findall(r"^ *```(bash|console)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        lines = re.sub(r"\\\n", " ", block).splitlines()
        found += [line.strip() for line in lines if language == "bash"]
        found += [
            line.removeprefix("$ ") for line in lines if language == "console" and line.startswith("$ ")
        ]
    found += re.findall(r"`((?:mlflow run|python -m) [^`]+)`", text)
    return [part for line in found for part in split(line)]


def split(line):
    """A line's commands as words, without comments, and without `…`, which stands for what was left out."""
    parts = [[]]
    for word in shlex.split(line, comments=True):
        if word == "&&":
            parts.append([])
        elif word not in ("…", "time"):
            parts[-1].append(word)
    return [part for part in parts if part]


@cache
def options(entry):
    """What an entry point's `--help` says, and the options that it names."""
    module = importlib.import_module(f"entry_points.{entry}")
    given, sys.argv = sys.argv, [entry, "--help"]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit):
            module.main()
    finally:
        sys.argv = given
    return shown.getvalue(), set(re.findall(r"^  --([\w-]+)", shown.getvalue(), re.MULTILINE))


def check_parameters(entry, parameters):
    """The parameters of an entry point, `name=value`: bad ones raise AssertionError or UserError."""
    assert entry in ENTRY_POINTS, f"entry point {entry!r}"
    shown, known = options(entry)
    given = dict(parameter.split("=", 1) for parameter in parameters)
    settings = {name: value for name, value in given.items() if name not in known}
    scale = given.get("scale", DEFAULT_SCALE)
    load_scale(DEFAULT_SCALE if scale == "FILE.yaml" else scale, settings)
    if "variant" in given:
        variants.variant(given["variant"])
    for name in {"dataset", "study"} & set(given):
        assert given[name] in (DATASETS if name == "dataset" else shown), f"{name} {given[name]!r}"


def check_mlflow_run(words):
    entry, parameters, waiting = "main", [], list(words)
    while waiting:
        flag = waiting.pop(0)
        assert flag in MLFLOW_RUN, f"mlflow run has no {flag}"
        value = waiting.pop(0)
        if flag == "-e":
            entry = value
        elif flag == "-P":
            parameters.append(value)
        elif flag == "--env-manager":
            assert value in ("local", "virtualenv", "conda"), value
    check_parameters(entry, parameters)


def check_module(module, words):
    assert importlib.util.find_spec(module), f"module {module}"
    flags = {word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--")}
    if module.startswith("entry_points."):
        unknown = flags - options(module.partition(".")[2])[1] - {"help"} - set(dotted_keys(Scale))
    else:
        source = importlib.util.find_spec(module).origin
        with open(source, encoding="utf-8") as file:
            unknown = flags - set(re.findall(r'"--([\w-]+)"', file.read()))
    assert not unknown, f"{module} has no {unknown}"


def check(words):
    match words:
        case ["mlflow", "run", ".", *rest]:
            check_mlflow_run(rest)
        case ["python", "-m", module, *rest]:
            check_module(module, rest)
        case ["pip", "install", "-e", what]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert what in {".", *(f".[{extra}]" for extra in extras)}, what
        case ["python", script]:
            assert (ROOT / script).is_file(), script
        case ["ruff" | "pytest" | "mypy" | "lint-imports", *_] | ["mlflow", "ui" | "run", *_] | ["vllm", *_]:
            pass
        case _:
            raise AssertionError(f"a command that no test knows: {shlex.join(words)}")


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_names_what_exists(page, monkeypatch):
    monkeypatch.delenv("SOLAR_MIRROR", raising=False)
    found = commands(TEXTS[page])
    assert found or page == "docs/security.md"
    for words in found:
        check(words)


def test_the_commands_are_found():
    assert len(commands(TEXTS["README.md"])) > 8
    assert split("mlflow run . -P a=1 … # why") == [["mlflow", "run", ".", "-P", "a=1"]]


@pytest.mark.parametrize(
    "line",
    [
        "mlflow run . -e dpoo --env-manager local",
        "mlflow run . -e dpo --env-manager local -P scale=smok",
        "mlflow run . -e dpo --env-manager local -P dpo.betta=0.2",
        "mlflow run . -e dpo --env-manager local -P variant=dpo_v9",
        "mlflow run . -e data --env-manager local -P dataset=orca",
        "mlflow run . -e main --env-manager local -P experiment=x",
        "mlflow run . -e ablation --env-manager local -P study=width",
        "mlflow run . --env local",
        "python -m benchmarks.performance.checkpoints",
        "python -m benchmarks.performance.checkpoint --sizes full",
        "python -m entry_points.dpo --varient dpo_v2",
        "pip install -e '.[gpus]'",
        "slor --help",
    ],
)
def test_a_command_that_names_what_is_not_there_is_told(line):
    (words,) = split(line)
    with pytest.raises((AssertionError, UserError)):
        check(words)


@pytest.mark.parametrize("page", TEXTS)
def test_every_parameter_in_the_text_exists(page):
    known = set().union(*(options(entry)[1] for entry in ENTRY_POINTS)) | set(dotted_keys(Scale))
    named = set(re.findall(r"-P ([\w.]+)=", TEXTS[page]))
    assert named <= known


@pytest.mark.parametrize("page", TEXTS)
def test_every_path_and_link_leads_somewhere(page):
    text, folder = TEXTS[page], (ROOT / page).parent
    missing = [path for path in re.findall(rf"`({PATH})`", text) if not any(ROOT.glob(path.rstrip("/")))]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if target.startswith("https://"):
            continue
        to = (folder / file).resolve() if file else ROOT / page
        headings = re.findall(r"^#+ (.+)$", to.read_text(), re.MULTILINE) if to.suffix == ".md" else []
        if not to.exists() or (
            anchor and anchor not in [head.lower().replace(" ", "-") for head in headings]
        ):
            missing.append(target)
    assert not missing


@pytest.mark.parametrize("scale", scale_names())
def test_files_that_the_comments_of_a_scale_name_exist(scale):
    text = (ROOT / "solar_repro" / "scales" / f"{scale}.yaml").read_text(encoding="utf-8")
    named = re.findall(r"[\w/]+/\w+\.(?:py|md)", " ".join(re.findall("#(.*)", text)))
    assert [
        file for file in named if not any((ROOT / part / file).is_file() for part in ("", "solar_repro"))
    ] == []


def test_the_readme_is_short_and_every_page_is_linked_from_it():
    readme = TEXTS["README.md"]
    assert len(readme.splitlines()) <= 130
    assert [page for page in TEXTS if page != "README.md" and f"]({page})" not in readme] == []
