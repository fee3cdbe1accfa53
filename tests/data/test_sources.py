import json
from collections import Counter

import pyarrow as pa
import pytest
from datasets import load_dataset

from solar_repro.data.locate import locate
from solar_repro.data.sources import RowFilter, load_instruction, load_preferences
from solar_repro.errors import UserError
from solar_repro.store.fingerprint import _MEMORY


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pair(question: str, chosen: str, rejected: str, **more: str) -> dict:
    user = turn("user", question)
    answers = {"chosen": chosen, "rejected": rejected}
    return {name: [user, turn("assistant", text)] for name, text in answers.items()} | more


def instruction(name, write_set, mirror, cache, rows, **settings):
    write_set("org/name", rows, suffix=settings.pop("suffix", "parquet"))
    return load_instruction(name, locate("org/name", mirror), cache_dir=cache, **settings)


def preferences(name, write_set, mirror, cache, rows, **settings):
    split = "train_prefs" if name == "ultrafeedback" else "train"
    write_set("org/name", rows, split=split, suffix=settings.pop("suffix", "parquet"))
    return load_preferences(name, locate("org/name", mirror), cache_dir=cache, **settings)


def test_a_file_without_rows_is_one_line(write_set, mirror, cache):
    empty = pa.table({"instruction": pa.array([], pa.string()), "output": pa.array([], pa.string())})
    with pytest.raises(UserError, match=r"data set alpaca_gpt4: no row is in .*; fetch it again"):
        instruction("alpaca_gpt4", write_set, mirror, cache, empty)


def test_alpaca(write_set, mirror, cache):
    rows = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3", "text": "…"},
        {"instruction": "Greet.", "input": "", "output": "Hi", "text": "…"},
    ]
    found = instruction("alpaca_gpt4", write_set, mirror, cache, rows)
    assert found.dataset.to_list() == [
        {"row_id": "0", "messages": [turn("user", "Add.\n\n1 and 2"), turn("assistant", "3")]},
        {"row_id": "1", "messages": [turn("user", "Greet."), turn("assistant", "Hi")]},
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_optional_columns_are_read_where_the_first_row_has_none(write_set, mirror, cache, suffix):
    rows = [{"instruction": "Name a colour.", "output": "Blue."}]
    rows += [{"instruction": "Translate.", "input": f"word {n}", "output": f"mot {n}"} for n in range(40)]
    table = rows if suffix == "jsonl" else pa.Table.from_pylist([rows[0] | {"input": None}, *rows[1:]])
    found = instruction("alpaca_gpt4", write_set, mirror, cache, table, suffix=suffix)
    asked = [messages[0]["content"] for messages in found.dataset["messages"]]
    assert asked == ["Name a colour.", *(f"Translate.\n\nword {n}" for n in range(40))]


def test_truthfulqa_rows_go_where_the_first_row_has_no_source(write_set, mirror, cache):
    rows = [
        pair("q0", "good", "bad"),
        *(pair(f"q{n}", "good", "bad", source="truthful_qa") for n in range(1, 20)),
    ]
    found = preferences("ultrafeedback", write_set, mirror, cache, rows, suffix="jsonl")
    assert found.report["dropped"] == {"from TruthfulQA": 19}


def test_orca_pairs_keep_system_turns_where_the_first_row_has_none(write_set, mirror, cache):
    rows = [{"question": "q", "chosen": "good", "rejected": "bad"}]
    rows += [rows[0] | {"system": "S"}]
    found = preferences("orca_dpo_pairs", write_set, mirror, cache, rows, suffix="jsonl")
    assert found.dataset["prompt"][1] == [turn("system", "S"), turn("user", "q")]


def test_openorca_keeps_ids_and_system_prompts(write_set, mirror, cache):
    rows = [
        {"id": "flan.7", "system_prompt": "Be brief.", "question": "q", "response": "a"},
        {"id": "niv.8", "system_prompt": "", "question": "r", "response": "b"},
        {"id": "t0.9", "system_prompt": None, "question": "s", "response": "c"},
    ]
    found = instruction("openorca", write_set, mirror, cache, rows)
    assert found.dataset.to_list() == [
        {
            "row_id": "flan.7",
            "messages": [turn("system", "Be brief."), turn("user", "q"), turn("assistant", "a")],
        },
        {"row_id": "niv.8", "messages": [turn("user", "r"), turn("assistant", "b")]},
        {"row_id": "t0.9", "messages": [turn("user", "s"), turn("assistant", "c")]},
    ]


def test_metamath_keeps_rows_of_math_seeds_alone(write_set, mirror, cache):
    rows = [
        {"query": f"q{n}", "response": f"a{n}", "type": kind, "original_question": "o"}
        for n, kind in enumerate(["MATH_AnsAug", "GSM_SV", "MATH_Rephrased", "GSM_FOBAR"])
    ]
    found = instruction("synth_math_instruct", write_set, mirror, cache, rows)
    assert found.dataset["row_id"][:] == ["0", "2"]
    assert found.report["dropped"] == {"no MATH seed": 2}


def test_orca_pairs(write_set, mirror, cache):
    rows = [{"system": "S", "question": "q", "chosen": "good", "rejected": "bad"}]
    found = preferences("orca_dpo_pairs", write_set, mirror, cache, rows)
    assert found.dataset[0] == {
        "row_id": "0",
        "prompt": [turn("system", "S"), turn("user", "q")],
        "chosen": [turn("assistant", "good")],
        "rejected": [turn("assistant", "bad")],
    }


def test_ultrafeedback_in_zephyrs_preprocessing(write_set, mirror, cache):
    two_turns = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
    rows = [
        pair("q", "good", "bad", source="ultrachat"),
        pair("What happens if you eat seeds?", "x", "y", source="truthful_qa"),
        pair("q", "same ", " same", source="flan"),
        {"chosen": two_turns, "rejected": two_turns, "source": "sharegpt"},
        pair("q", "good", "bad", source="flan") | {"rejected": pair("other", "x", "bad")["rejected"]},
        {"chosen": [], "rejected": None, "source": "flan"},
        pair("s", "good", "bad", source="flan"),
    ]
    for column in ("chosen", "rejected"):
        rows[-1][column] = [turn("system", "S"), *rows[-1][column]]
    found = preferences("ultrafeedback", write_set, mirror, cache, rows)
    assert found.dataset.to_list() == [
        {
            "row_id": "0",
            "prompt": [turn("user", "q")],
            "chosen": [turn("assistant", "good")],
            "rejected": [turn("assistant", "bad")],
        },
        {
            "row_id": "6",
            "prompt": [turn("system", "S"), turn("user", "s")],
            "chosen": [turn("assistant", "good")],
            "rejected": [turn("assistant", "bad")],
        },
    ]
    assert found.report["examples"] == {
        "from TruthfulQA": ["1"],
        "identical pair": ["2"],
        "not one user and one assistant turn": ["3"],
        "chosen and rejected answer different prompts": ["4"],
        "null user": ["5"],
    }
    assert (found.report["rows_in"], found.report["usable"]) == (7, 2)


def test_math_pairs(write_set, mirror, cache):
    rows = [{"prompt": "q", "chosen": "new", "rejected": "old"}]
    found = preferences("synth_math_alignment", write_set, mirror, cache, rows)
    assert found.dataset[0]["chosen"] == [turn("assistant", "new")]


def test_damaged_rows_are_dropped_counted_and_named(write_set, mirror, cache):
    good = {"id": "x", "system_prompt": "", "question": "q", "response": "a"}
    damaged = [
        {"id": "null", "question": None},
        {"id": "empty", "response": " \n"},
        {"id": "no question", "question": ""},
        {"id": "type", "response": 7},
        {"id": "surrogate", "question": "\ud800"},
    ]
    rows = [good, *(good | change for change in damaged), good]
    found = instruction("openorca", write_set, mirror, cache, rows, suffix="jsonl")
    assert found.dataset["row_id"][:] == ["x", "x"]
    assert found.report["examples"] == {
        "null user": ["null"],
        "empty answer": ["empty"],
        "empty user": ["no question"],
        "wrong type: response": ["type"],
        "broken UTF-8": ["surrogate"],
    }
    assert found.report["dropped"] == dict.fromkeys(found.report["examples"], 1)


def test_broken_utf8_in_parquet(write_set, mirror, cache):
    answers = pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())
    found = instruction(
        "alpaca_gpt4", write_set, mirror, cache, pa.table({"instruction": ["a", "b"], "output": answers})
    )
    assert (found.report["dropped"], found.report["examples"]) == (
        {"broken UTF-8": 1},
        {"broken UTF-8": ["1"]},
    )


def test_no_usable_row(write_set, mirror, cache):
    with pytest.raises(UserError, match=r"no usable row is left.*'empty answer': 1"):
        instruction("alpaca_gpt4", write_set, mirror, cache, [{"instruction": "a", "output": ""}])


def test_missing_column_names_set_and_columns(write_set, mirror, cache):
    with pytest.raises(UserError, match=r"org/name.*no column 'output'.*instruction, response"):
        instruction("alpaca_gpt4", write_set, mirror, cache, [{"instruction": "a", "response": "b"}])


def test_set_of_the_other_stage(mirror):
    with pytest.raises(UserError, match=r"'ultrafeedback' is not one of the instruction sets.*alpaca_gpt4"):
        load_instruction("ultrafeedback", locate("org/name", mirror) if mirror.exists() else None)


@pytest.fixture
def numbered(write_set, mirror):
    rows = [{"instruction": f"q{number}", "output": str(number)} for number in range(20_000)]
    write_set("org/name", rows)
    return locate("org/name", mirror)


def test_cap_is_a_seeded_sample_in_the_sets_order(numbered, cache):
    def ids(seed, cap=500):
        found = load_instruction("alpaca_gpt4", numbered, max_samples=cap, seed=seed, cache_dir=cache)
        assert (found.report["usable"], found.report["kept"]) == (20_000, cap)
        return [int(row_id) for row_id in found.dataset["row_id"]]

    first, again, other = ids(1), ids(1), ids(2)
    assert first == again == sorted(set(first))
    assert len(first) == 500
    # Two independent samples of 500 of 20,000 share 12.5 rows on average.
    assert len(set(first) & set(other)) < 40
    # Spread over the whole set: each tenth of it has 50 on average, standard deviation 6.7.
    assert all(20 <= count <= 80 for count in Counter(place // 2000 for place in first).values())


def test_cap_above_the_set_keeps_all(numbered, cache):
    assert (
        len(load_instruction("alpaca_gpt4", numbered, max_samples=30_000, cache_dir=cache).dataset) == 20_000
    )


def test_filter_comes_before_the_cap(numbered, cache):
    def odd(flat, _):
        return ["odd" if int(text) % 2 else None for text in flat.columns["answer"].to_pylist()]

    found = load_instruction(
        "alpaca_gpt4",
        numbered,
        max_samples=300,
        row_filters=[RowFilter("filter", "odd", odd, {"way": "test"})],
        cache_dir=cache,
    )
    assert found.report["dropped"] == {"odd": 10_000}
    assert found.report["kept"] == 300
    assert all(int(row_id) % 2 == 0 for row_id in found.dataset["row_id"])
    assert found.report["filter"] == {"way": "test"}


def test_prepared_once(numbered, cache):
    first = load_instruction("alpaca_gpt4", numbered, cache_dir=cache)
    files = {file: file.stat().st_mtime_ns for file in cache.iterdir() if file.name != _MEMORY}
    again = load_instruction("alpaca_gpt4", numbered, cache_dir=cache)
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert set(cache.iterdir()) - {cache / _MEMORY} == set(files)
    assert (again.report, again.key) == (first.report, first.key)
    assert again.dataset["row_id"][:] == first.dataset["row_id"][:]


def test_kill_while_writing_leaves_nothing_that_passes_for_rows(numbered, cache):
    def killed(*_):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            load_instruction(
                "alpaca_gpt4", numbered, row_filters=[RowFilter("filter", "k", killed, {})], cache_dir=cache
            )
    assert {file.name for file in cache.iterdir()} <= {_MEMORY}


def test_changed_content_is_another_set(write_set, mirror, cache):
    rows = [{"instruction": "a", "output": "b"}]
    first = instruction("alpaca_gpt4", write_set, mirror, cache, rows)
    second = instruction("alpaca_gpt4", write_set, mirror, cache, [*rows, *rows])
    assert first.report["fingerprint"] != second.report["fingerprint"]
    assert (len(first.dataset), len(second.dataset)) == (1, 2)


def test_real_ultrafeedback_as_a_plain_loop_reads_it(shared, cache):
    location = locate("allenai/ultrafeedback_binarized_cleaned", shared / "hub")
    found = load_preferences("ultrafeedback", location, cache_dir=cache)
    expected = []
    for number, row in enumerate(
        load_dataset(str(location.folder), split="train_prefs", cache_dir=str(cache))
    ):
        chosen, rejected = row["chosen"][1]["content"], row["rejected"][1]["content"]
        if chosen.strip() and rejected.strip() and chosen.strip() != rejected.strip():
            expected.append(
                {
                    "row_id": str(number),
                    "prompt": row["chosen"][:1],
                    "chosen": row["chosen"][1:],
                    "rejected": row["rejected"][1:],
                }
            )
    assert json.dumps(found.dataset.to_list()) == json.dumps(expected)
    assert found.report["dropped"] == {"identical pair": 4, "empty chosen": 1, "empty rejected": 1}


def test_real_stand_in_for_alpaca(shared, cache):
    location = locate("vicgalle/alpaca-gpt4", shared / "hub", "llamafactory/alpaca_en_demo")
    report = load_instruction("alpaca_gpt4", location, cache_dir=cache).report
    assert (report["rows_in"], report["used"], report["hub_id"]) == (
        999,
        "llamafactory/alpaca_en_demo",
        "vicgalle/alpaca-gpt4",
    )
