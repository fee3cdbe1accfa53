import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from solar_repro.data import row_batches
from solar_repro.data.locate import folder_location, locate
from solar_repro.data.text_stream import load_text
from solar_repro.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three files of 25 lines each, read seven rows at a time."""
    monkeypatch.setattr(row_batches, "BATCH_ROWS", 7)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("".join(f"{name}{number}\n" for number in range(25)))
    return folder_location(tmp_path)


def test_every_text_once_an_epoch_in_a_seeded_order(folder):
    once, again, other = (list(load_text(folder, seed=seed)) for seed in (1, 1, 2))
    assert once == again != other
    assert (
        sorted(once) == sorted(other) == sorted(f"{name}{number}" for name in "abc" for number in range(25))
    )
    twice = list(load_text(folder, seed=1, epochs=2))
    assert twice[:75] == once
    assert sorted(twice[75:]) == sorted(once) != twice[75:]


@pytest.fixture
def two_epochs(folder):
    return load_text(folder, seed=1, epochs=2)


@given(st.integers(0, 149))
@example(75)  # the end of an epoch
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_goes_on_at_the_same_row(two_epochs, after):
    beginning = two_epochs.state
    whole = list(two_epochs.after(beginning))
    stream = two_epochs.after(beginning)
    walk = iter(stream)
    assert [next(walk) for _ in range(after)] == whole[:after]
    assert list(stream.after(stream.state)) == whole[after:]


def test_without_end(folder):
    walk = iter(load_text(folder, epochs=None))
    assert len([next(walk) for _ in range(200)]) == 200


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_columns_of_a_set(write_set, mirror, suffix):
    write_set("org/text", [{"body": "one"}, {"body": "two"}], split="train", suffix=suffix)
    assert sorted(load_text(locate("org/text", mirror), column="body")) == ["one", "two"]
    with pytest.raises(UserError, match="no column 'text'; it has body"):
        load_text(locate("org/text", mirror))


def test_damaged_and_blank_rows_are_counted(write_set, mirror):
    lines = b'{"text": "good"}\n{"text": "\xff"}\n{"text": " "}\n{"text": null}\n{"text": 5}\nnot json\n'
    write_set("org/text", lines, suffix="jsonl")
    stream = load_text(locate("org/text", mirror))
    assert list(stream) == ["good"]
    assert stream.report["dropped"] == {
        "broken UTF-8": 1,
        "empty text": 2,
        "wrong type: text": 1,
        "is not valid JSON": 1,
    }
    assert stream.report["examples"]["broken UTF-8"] == ["train-00000-of-00001.jsonl row 1"]


def test_what_was_dropped_is_remembered_over_a_kill(write_set, mirror):
    lines = b"".join(b'{"text": "\xff"}\n' if n % 3 else b'{"text": "good"}\n' for n in range(30))
    write_set("org/text", lines, suffix="jsonl")
    stream = load_text(locate("org/text", mirror))
    list(stream)
    first = load_text(locate("org/text", mirror))
    walk = iter(first)
    for _ in range(6):
        next(walk)
    rest = first.after(first.state)
    list(rest)
    assert rest.report == stream.report
    assert stream.report["dropped"] == {"broken UTF-8": 20}


def test_without_any_text_is_an_error_not_an_endless_loop(write_set, mirror):
    write_set("org/text", [{"text": " "}])
    with pytest.raises(UserError, match="no text in column 'text'"):
        next(iter(load_text(locate("org/text", mirror), epochs=None)))
