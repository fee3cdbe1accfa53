from types import SimpleNamespace

import pytest

from solar_repro.data.benchmark_sets import table_8_fingerprints
from solar_repro.data.decontamination import decontamination
from solar_repro.data.locate import locate, pinned
from solar_repro.data.sources import load_instruction, load_preferences
from solar_repro.data.table_8_filter import by_flan_join, by_ngrams, by_task_name, table_8_filter
from solar_repro.errors import UserError
from solar_repro.paper.data_sets import FILTERED_TASKS

LEAK = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."


def row(number: int, question: str, **more: str) -> dict[str, str]:
    return {"id": f"flan.{number}", "system_prompt": "", "question": question, "response": "a"} | more


def load(location, cache, *row_filters):
    return load_instruction("openorca", location, row_filters=row_filters, cache_dir=cache)


def test_by_task_name(write_set, mirror, cache):
    names = [
        *FILTERED_TASKS,
        "task033_winogrande_answer_generation",
        "task026_drop_question_generation",
        "cot_ecqa",
    ]
    write_set("org/orca", [row(n, f"q{n}", task_name=name) for n, name in enumerate(names)])
    location = locate("org/orca", mirror)
    found = load(location, cache, table_8_filter(location, mirror, FILTERED_TASKS))
    assert found.dataset["row_id"][:] == ["flan.10", "flan.11", "flan.12"]
    assert found.report["dropped"] == {f"Table 8: {name}": 1 for name in FILTERED_TASKS}
    assert found.report["filter"] == {
        "way": "task_name",
        "removed": dict.fromkeys(FILTERED_TASKS, 1),
        "missed_by_table_8": {names[10]: 1, names[11]: 1},
    }


def test_one_filter_counts_each_load_by_itself(write_set, mirror, cache):
    rows = [row(n, f"q{n}", task_name="cot_gsm8k" if n else "cot_ecqa") for n in range(4)]
    rows[3]["response"] = ""
    write_set("org/orca", rows)
    location, row_filter = locate("org/orca", mirror), by_task_name(FILTERED_TASKS)
    for seed in (1, 2):
        found = load_instruction("openorca", location, row_filters=[row_filter], seed=seed, cache_dir=cache)
        assert found.report["filter"]["removed"] == {"cot_gsm8k": 2}
        assert found.report["dropped"] == {"Table 8: cot_gsm8k": 2, "empty answer": 1}


def test_by_task_name_without_names(write_set, mirror, cache):
    write_set("org/orca", [row(0, "q")])
    with pytest.raises(UserError, match="rows without 'task_name'"):
        load(locate("org/orca", mirror), cache, by_task_name(FILTERED_TASKS))


def test_first_row_without_a_task_name(write_set, mirror, cache):
    write_set("openai/gsm8k", [{"question": LEAK, "answer": "72"}], config="main")
    write_set("openai/gsm8k", [{"question": "How many sheep?", "answer": "2"}], split="test", config="main")
    names = [None, None, "cot_gsm8k", "cot_ecqa", "task028_drop_answer_generation"]
    texts = [LEAK, "q1", "q2", LEAK, "q4"]
    rows = [
        row(n, text, **({"task_name": name} if name else {}))
        for n, (text, name) in enumerate(zip(texts, names, strict=True))
    ]
    write_set("org/orca", rows, suffix="jsonl")
    location = locate("org/orca", mirror)
    found = load(location, cache, table_8_filter(location, mirror, FILTERED_TASKS, cache_dir=cache))
    assert found.dataset["row_id"][:] == ["flan.1", "flan.3", "flan.4"]
    assert found.report["dropped"] == {"Table 8: 13-gram of GSM8K": 1, "Table 8: cot_gsm8k": 1}
    report = found.report["filter"]
    assert report["way"] == "task_name, without one ngrams"
    assert report["removed"] == {"cot_gsm8k": 1, "GSM8K": 1}
    assert (report["without_task_name"], report["missed_by_table_8"]) == (2, {names[4]: 1})


def test_task_names_in_the_second_file_alone(write_set, mirror, cache):
    folder = write_set("org/orca", [row(0, "q", task_name="cot_gsm8k"), row(1, "r", task_name="cot_ecqa")])
    (folder / "train-00001-of-00001.jsonl").write_text("")
    location = locate("org/orca", mirror)
    readme = folder / "README.md"
    paths = "[train-00001-of-00001.jsonl, train-00000-of-00001.parquet]"
    readme.write_text(readme.read_text().replace("path: train-00000-of-00001.parquet", f"path: {paths}"))
    found = load(location, cache, table_8_filter(location, mirror, FILTERED_TASKS, cache_dir=cache))
    assert found.report["filter"]["removed"] == {"cot_gsm8k": 1}


def test_by_join_with_flan(write_set, mirror, cache):
    flan = [
        ("Is the sky blue?  Answer:", "cot_gsm8k"),
        ("Fill the blank", "winogrande:1.1.0"),
        ("Who won?", "task028_drop_answer_generation"),
        ("Is the sky green?", "cot_ecqa"),
    ]
    write_set("Open-Orca/FLAN", [{"inputs": text, "_task_name": name} for text, name in flan])
    texts = ["is the sky blue? answer:", "Fill the blank!", "Who won?", "Is the sky green?", "Is the sky"]
    write_set("org/orca", [row(number, text) for number, text in enumerate(texts)])
    location = locate("org/orca", mirror)
    row_filter = table_8_filter(
        location, mirror, FILTERED_TASKS, flan=locate("Open-Orca/FLAN", mirror), cache_dir=cache
    )
    found = load(location, cache, row_filter)
    assert found.dataset["row_id"][:] == ["flan.2", "flan.3", "flan.4"]
    assert found.report["filter"] == {
        "way": "flan_join",
        "flan": "Open-Orca/FLAN",
        "flan_rows": 3,
        "removed": {"cot_gsm8k": 1, "winogrande:1.1.0": 1},
        "missed_by_table_8": {"task028_drop_answer_generation": 1},
    }


def test_join_with_a_flan_that_has_none_of_the_tasks(write_set, mirror, cache):
    write_set("Open-Orca/FLAN", [{"inputs": "q", "_task_name": "cot_ecqa"}])
    write_set("org/orca", [row(0, "q")])
    flan = locate("Open-Orca/FLAN", mirror)
    found = load(locate("org/orca", mirror), cache, by_flan_join(flan, FILTERED_TASKS, cache_dir=cache))
    assert (len(found.dataset), found.report["filter"]["flan_rows"]) == (1, 0)


def test_by_ngrams(write_set, mirror, cache):
    write_set("openai/gsm8k", [{"question": LEAK, "answer": "72"}], config="main")
    write_set("openai/gsm8k", [{"question": "How many sheep?", "answer": "2"}], split="test", config="main")
    item = {
        "sentence": "The trophy did not fit into the suitcase because _ was far too large.",
        "answer": "1",
    }
    write_set(
        "allenai/winogrande",
        [item | {"option1": "the trophy", "option2": "the suitcase"}],
        "validation",
        config="winogrande_xl",
    )
    questions = [
        "Solve this: " + LEAK.upper().replace(",", ""),
        "how many, sheep",
        "How many sheep are there?",
        "Complete: The trophy did not fit into the suitcase because the suitcase was far too large.",
        "Natalia sold clips to 48 of her friends in April, and then she bought some.",
    ]
    write_set("org/orca", [row(number, text) for number, text in enumerate(questions)])
    location = locate("org/orca", mirror)
    found = load(location, cache, table_8_filter(location, mirror, FILTERED_TASKS, cache_dir=cache))
    assert found.dataset["row_id"][:] == ["flan.2"]
    assert found.report["filter"]["removed"] == {"GSM8K": 3, "Winogrande": 1}
    assert found.report["filter"]["way"] == "ngrams"
    assert found.report["filter"]["benchmarks"] == ["Winogrande", "GSM8K"]
    assert "ucinlp/drop" in found.report["filter"]["benchmarks_missing"]


def test_decontamination_of_any_set(write_set, mirror, cache):
    """Rows that hold an item of what H6 scores go, from either kind of set, before the cap."""
    for config in ("ARC-Challenge", "ARC-Easy"):
        write_set("allenai/ai2_arc", [{"question": "arc?"}], split="test", config=config)
    write_set("Rowan/hellaswag", [{"ctx": "hella"}], split="validation")
    write_set("cais/mmlu", [{"question": LEAK}], split="test", config="all")
    write_set("truthfulqa/truthful_qa", [{"question": "tq?"}], split="validation", config="multiple_choice")
    item = {"sentence": "the _ won", "option1": "a", "option2": "b"}
    write_set("allenai/winogrande", [item], split="validation", config="winogrande_xl")
    write_set("openai/gsm8k", [{"question": "gsm?"}], split="test", config="main")
    write_set("org/alpaca", [{"instruction": f"q{n}", "output": LEAK if n % 4 else "a"} for n in range(40)])
    row_filter = decontamination(mirror, cache_dir=cache)
    found = load_instruction(
        "alpaca_gpt4", locate("org/alpaca", mirror), max_samples=9, row_filters=[row_filter], cache_dir=cache
    )
    assert found.report["dropped"] == {"decontamination: 13-gram of MMLU": 30}
    assert found.report["decontamination"]["removed"] == {"MMLU": 30}
    assert (found.report["usable"], found.report["kept"]) == (10, 9)
    pair = {"question": "q", "chosen": "a", "rejected": "b", "system": ""}
    write_set("org/pairs", [pair, pair | {"rejected": LEAK}, pair | {"system": "the a won"}])
    found = load_preferences(
        "orca_dpo_pairs", locate("org/pairs", mirror), row_filters=[row_filter], cache_dir=cache
    )
    assert found.dataset["row_id"][:] == ["0"]
    assert found.report["decontamination"]["removed"] == {"MMLU": 1, "Winogrande": 1}


def test_a_benchmark_is_left_out_where_it_is_nowhere_and_not_where_nobody_could_tell(
    write_set, mirror, monkeypatch, capsys
):
    import huggingface_hub

    response = SimpleNamespace(headers={}, request=None)

    def answer(_, hub_id):
        if hub_id == "ucinlp/drop":
            raise huggingface_hub.errors.RepositoryNotFoundError("404 not found", response=response)
        if hub_id == "openai/gsm8k" and busy:
            raise OSError("429 too many requests")
        return type("Info", (), {"sha": "abc"})

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", answer)
    busy = False
    assert len(table_8_fingerprints(None)) == 4
    assert "does without DROP: data set ucinlp/drop" in capsys.readouterr().err
    busy = True
    with pytest.raises(UserError, match="429 too many requests"):
        table_8_fingerprints(None)
    write_set("allenai/winogrande", [{"sentence": "a"}], "validation", config="winogrande_xl")
    assert "openai/gsm8k" not in table_8_fingerprints(mirror)  # with a mirror nobody has to be online
    assert "does without GSM8K" in capsys.readouterr().err
    with pinned({"allenai/ai2_arc": "revision:abc"}):
        assert table_8_fingerprints(None) == {"allenai/ai2_arc": "revision:abc"}


def test_by_ngrams_without_any_benchmark(mirror):
    with pytest.raises(UserError, match="none of"):
        by_ngrams(mirror)


def test_real_rows_of_gsm8k_by_name_and_by_ngrams(shared, cache):
    """The n-gram way finds at least 99 % of what the names tell and at most 0.5 % of the rest."""
    mirror = shared / "hub"
    location = locate("Open-Orca/OpenOrca", mirror, "google-research/flan-cot")
    named = load(location, cache, table_8_filter(location, mirror, FILTERED_TASKS))
    assert named.report["dropped"] == {"Table 8: cot_gsm8k": 7473}
    everything = load(location, cache)
    others = set(named.dataset["row_id"])
    gsm8k = set(everything.dataset["row_id"]) - others
    assert (len(gsm8k), len(others)) == (7473, 25_970)
    left = set(load(location, cache, by_ngrams(mirror, cache_dir=cache)).dataset["row_id"])
    assert len(gsm8k - left) >= 0.99 * len(gsm8k)
    assert len(others - left) <= 0.005 * len(others)
