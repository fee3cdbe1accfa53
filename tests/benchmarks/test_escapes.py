"""What runs, scales and files are called reaches pages, Markdown, CSV, pictures and shells as text alone."""

import csv
import io
import re
import shlex
import subprocess
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks import figures
from benchmarks.compare import markdown as compare_markdown
from benchmarks.compare import write_csv
from benchmarks.model_cards import card
from benchmarks.tables import TABLES, csv_rows
from benchmarks.verdicts import judge
from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.errors import UserError
from solar_repro.safety.escapes import escape_csv_row, escape_markdown, escape_plot_text
from solar_repro.scales.load import load_scale
from solar_repro.tracking.commands import mlflow_command
from tests.benchmarks.fakes import fake_runs

FORMULA = "=cmd|' /C calc'!A0"
HOSTILE = [
    FORMULA,
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r\n=1",
    "a\x1b[2J\nb",
    "`$(id)`",
    "</text><script>x</script>",
    "a|b",
    "$x^{",
]


@given(st.text())
@example(FORMULA)
@example("\n=1")
@example("\u202e=1")
def test_no_text_of_a_csv_file_is_a_formula_or_breaks_a_line(text):
    (value,) = escape_csv_row({"name": text}).values()
    assert not value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert len(value.splitlines()) <= 1


def test_numbers_of_a_csv_file_stay_numbers(tmp_path):
    write_csv(tmp_path / "x.csv", [{"name": FORMULA, "delta": -1.5, "none": None}])
    with (tmp_path / "x.csv").open(newline="") as lines:
        assert list(csv.DictReader(lines)) == [{"name": "'" + FORMULA, "delta": "-1.5", "none": ""}]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_runs_in_csv_and_pictures(name, tmp_path):
    runs = fake_runs({"base": 30.0, name: 20.0})
    write_csv(tmp_path / "scores.csv", list(csv_rows(runs)))
    text = (tmp_path / "scores.csv").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)
    for row in csv.reader(io.StringIO(text)):
        assert not any(re.match(r"[=@]|[+-](?!\d+\.\d)", value) for value in row), row
    picture = figures.write(tmp_path / "h6", figures.h6, runs)
    tree = ElementTree.fromstring(picture)  # noqa: S314 # written a line above
    assert not any(element.tag.endswith("script") for element in tree.iter())
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", picture)


@given(st.text(min_size=1))
@example("$x^{")
@example("a\x1bb")
def test_any_name_can_be_drawn(text):
    shown = escape_plot_text(text)
    assert not re.search(r"(?<!\\)\$", shown)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", shown)


@given(st.text())
@example("<img src=x onerror=alert(1)>")
@example("a | b\n# heading")
@example("[click](javascript:alert(1))")
@example("![x](http://elsewhere.example/x.png)")
def test_no_text_is_markup_in_markdown(text):
    assert not set("<>|[]`*\n") & set(escape_markdown(text))


def test_what_a_scale_says_in_markdown():
    runs = fake_runs({"base": 30.0})
    text = compare_markdown(runs, judge((), runs, TABLES), "<script>x</script>\n# [a](javascript:b)")
    assert "<script>" not in text
    assert "\n# [" not in text


@pytest.mark.parametrize("hub_id", ["org/a]\nlicense: mit", "org/`a`|b", "org/a: b #c", "org/<b>"])
def test_names_in_a_card_stay_in_their_place(hub_id):
    scale = load_scale("smoke")
    base = scale.base.model_copy(update={"model": hub_id})
    data = scale.data.model_copy(update={"mirror": None, "stand_ins": {"alpaca_gpt4": hub_id}})
    scale = scale.model_copy(update={"base": base, "data": data, "description": "x\n---\nlicense: mit\n<b>"})
    text = card(fake_runs({"merge_v1": 1.0}, {"merge_v1": {}, "sft_v1": {}}), scale, "merge_v1")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == hub_id.replace("\n", " ")
    assert front["license"] == "other"
    assert "<b>" not in text.split("---\n", 2)[2].replace("org/<b>", "")


@pytest.mark.parametrize(
    "value", ["$(touch ran)", "`touch ran`", "a; touch ran", "a' 'b", "a\ntouch ran", "1e-5"]
)
def test_a_command_of_the_report_can_be_pasted(value, tmp_path):
    text = mlflow_command("main", "smoke", {"base.model": value})
    assert shlex.split(text)[-1] == f"base.model={value}".replace("\n", " ")
    subprocess.run(["bash", "-c", f"mlflow() {{ :; }}; {text}"], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())


def test_plain_commands_look_as_ever():
    assert mlflow_command("main", "smoke", {"sft.learning_rate": "1e-5"}).endswith(
        "-P sft.learning_rate=1e-5"
    )


@pytest.mark.parametrize(
    "name", ["$(touch ran)", "`touch ran`", 'a"; touch ran; "', "a'; touch ran; '", "a b"]
)
def test_the_command_that_converts_a_pickle_can_be_pasted(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError) as refused:
        open_checkpoint(folder)
    text = str(refused.value).partition("convert it: ")[2]
    (tmp_path / "scratch").mkdir()
    program = "python() { printf '%s' \"$2\"; }; " + text
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path / "scratch", capture_output=True, text=True)
    assert not list((tmp_path / "scratch").iterdir())
    compile(done.stdout, "command", "exec")
    assert repr(str(folder)) in done.stdout
