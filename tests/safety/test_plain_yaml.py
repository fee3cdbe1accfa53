"""YAML that others wrote: whatever it is, it ends soon, in a value of bounded size or in one short line."""

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solar_repro.errors import UserError
from solar_repro.plan.merge_recipe import load_recipe
from solar_repro.safety.plain_yaml import MAX_CHARACTERS, read_yaml, read_yaml_file
from solar_repro.scales.load import load_scale

fuzz = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {k: v}\n" + "".join(
    f"{new}: &{new} {{{', '.join(f'k{number}: *{old}' for number in range(9))}}}\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "aliases that unfold": BOMB,
    "mappings that unfold": MERGED,
    "a long text under many aliases": f"a: &a {'x' * 60_000}\nb: [*a, *a, *a]\n",
    "an alias within itself": "a: &a [*a]\n",
    "deep lists": "a: " + "[" * 600,
    "deep mappings": "{a: " * 2_000,
    "deep aliases": "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(1500)),
    "a large file": "a: " + "x" * 1_000_000,
    "a long number": "a: " + "9" * 10_000,
    "a tag of Python": "a: !!python/object/apply:os.system [ls]\n",
    "a tag of YAML": "a: !!timestamp nonsense\n",
    "a bool that is none": "a: !!bool nonsense\n",
    "control characters": "a: \x1b[2J\n",
    "a key that is a list": "? [a]\n: b\n",
    "a long key twice": f"{'k' * 900}: 1\n{'k' * 900}: 2\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_one_short_line(text, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    for load in (read_yaml_file, load_recipe, lambda file: load_scale(str(file))):
        with pytest.raises(UserError, match=r"own\.yaml: not YAML: ") as refused:
            load(file)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 600


def test_a_bomb_of_546_bytes_is_a_bomb():
    """What the loader would be without its bound."""
    assert len(BOMB) < 600
    sizes = [9]
    for _ in range(8):
        sizes.append(9 * sizes[-1])
    assert sum(sizes) > 400_000_000


def test_aliases_that_people_write_are_read():
    text = "base: &base {learning_rate: 1e-5, epochs: 2}\none: {<<: *base, epochs: 3}\ntwo: *base\n"
    assert read_yaml(text)["one"] == {"learning_rate": 1e-5, "epochs": 3}
    assert read_yaml(text)["two"] == {"learning_rate": 1e-5, "epochs": 2}


def test_a_long_value_is_not_repeated_in_the_message(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        f"method: average\nmodels: {{{', '.join(f'k{n}: {chr(120) * 90}' for n in range(900))}}}\n"
    )
    for text in (file.read_text(), f"{'k' * 90_000}: 1\n", f"method: '{'x' * 90_000}'\nmodels: [a]\n"):
        file.write_text(text)
        with pytest.raises(UserError) as refused:
            load_recipe(file)
        assert len(str(refused.value)) < 1200
    with pytest.raises(UserError) as refused:
        load_scale("smoke", {"sft.epochs": "x" * 90_000})
    assert len(str(refused.value)) < 1200


@pytest.mark.parametrize("make", ["/dev/zero", "folder"])
def test_what_is_no_file_is_refused_at_once(make, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="must be a file"):
        load_recipe(tmp_path / make)


PIECES = ["a", "b: ", "- ", "[", "]", "{", "}", ": ", ", ", "\n", "  ", "&a ", "*a", "*b", "&b ", "<<: "]
PIECES += [
    "? ",
    "!!",
    "!x ",
    "|\n",
    ">\n",
    "'",
    '"',
    "#",
    "%",
    "---\n",
    "...\n",
    "1e9",
    "0x1",
    "~",
    "null",
    "\t",
]
pieces = st.sampled_from(PIECES)


@fuzz
@given(st.lists(pieces, max_size=40).map("".join) | st.text(max_size=60))
def test_any_text_is_a_value_or_a_yaml_error(text):
    try:
        found = read_yaml(text)
    except yaml.YAMLError:
        return
    assert len(json.dumps(found, default=str)) <= 12 * MAX_CHARACTERS


leaves = st.integers() | st.booleans() | st.none() | st.text("abc xyz", min_size=1)
keys = st.text("abc", min_size=1)


@fuzz
@given(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner)))
def test_what_was_written_is_read_again(value):
    assert read_yaml(json.dumps(value)) == value
