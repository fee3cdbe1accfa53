import json

import pytest

from solar_repro.checkpoint.layer_map import parameters_of
from solar_repro.errors import UserError
from solar_repro.paper import variants
from solar_repro.paper.data_sets import DATASETS, FILTERED_TASKS
from tests.conftest import ROOT

TABLES = json.loads((ROOT / "benchmarks/paper/tables.json").read_text(encoding="utf-8"))


def test_every_row_of_table_2_is_a_released_checkpoint():
    assert [released.row for released in variants.RELEASED] == [
        row["model"] for row in TABLES["table_2"]["rows"]
    ]


@pytest.mark.parametrize(
    ("row", "hidden", "inner", "layers", "heads", "key_value_heads", "vocabulary"),
    [
        ("SOLAR 10.7B", 4096, 14336, 48, 32, 8, 32000),
        ("Mistral 7B", 4096, 14336, 32, 32, 8, 32000),
        ("Yi 34B", 7168, 20480, 60, 56, 8, 64000),
        ("Llama 2 70B", 8192, 28672, 80, 64, 8, 32000),
    ],
)
def test_sizes_of_released_checkpoints_follow_from_their_configs(
    row, hidden, inner, layers, heads, key_value_heads, vocabulary
):
    released = next(found for found in variants.RELEASED if found.row == row)
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "vocab_size": vocabulary,
    }
    assert released.parameters == parameters_of(config)
    assert released.layers == layers
    assert released.key_value_size == key_value_heads * hidden // heads


@pytest.mark.parametrize("table", [3, 4, 5, 6, 7])
def test_every_row_of_the_ablation_tables_is_a_variant(table):
    printed = [row["model"] for row in TABLES[f"table_{table}"]["rows"]]
    ours = [variant.rows[table] for variant in variants.PAPER.values() if table in variant.rows]
    assert sorted(printed) == sorted(ours)


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (
            3,
            {
                "alpaca_gpt4": "alpaca_gpt4",
                "openorca": "openorca",
                "synth_math_instruct": "synth_math_instruct",
            },
        ),
        (4, {"ultrafeedback_clean": "ultrafeedback", "synth_math_alignment": "synth_math_alignment"}),
    ],
)
def test_data_of_each_variant_is_what_the_table_ticks(table, columns):
    by_row = {variant.rows[table]: variant for variant in variants.PAPER.values() if table in variant.rows}
    for row in TABLES[f"table_{table}"]["rows"]:
        ticked = {ours for printed, ours in columns.items() if row[printed]}
        # A merged model was trained on what its parents were trained on.
        variant = by_row[row["model"]]
        parents = (
            [variants.PAPER[name] for name in variant.parents] if variant.stage == "merge" else [variant]
        )
        assert ticked == {name for parent in parents for name in parent.datasets}


def test_base_sft_model_of_table_5():
    by_row = {v.rows[5]: v for v in variants.PAPER.values() if 5 in v.rows}
    for row in TABLES["table_5"]["rows"]:
        (parent,) = by_row[row["model"]].parents
        assert variants.PAPER[parent].rows[3] == row["base_sft_model"]


def test_merge_weights_of_table_7():
    by_row = {v.rows[7]: v for v in variants.PAPER.values() if 7 in v.rows}
    for row in TABLES["table_7"]["rows"]:
        variant = by_row[row["model"]]
        if variant.merge_method == "slerp":
            assert row["merge_method"] == "SLERP"
        else:
            a, b = variant.merge_weights
            assert row["merge_method"] == f"Average ({a}, {b})"


def test_table_1():
    printed = {row["dataset"]: row for row in TABLES["table_1"]["rows"]}
    for source in DATASETS.values():
        row = printed.pop(source.title)
        assert source.stage == row["stage"].lower()
        assert source.maximum_samples == float(row["maximum_samples_used"].removesuffix("K")) * 1000
    assert not printed


def test_table_8():
    assert list(FILTERED_TASKS) == TABLES["table_8"]["rows"]


def test_lineage_puts_parents_first_and_each_once():
    names = [variant.name for variant in variants.lineage("solar_instruct")]
    assert len(names) == len(set(names))
    assert names[-1] == "merge_v1"
    for name in names:
        assert all(names.index(parent) < names.index(name) for parent in variants.variant(name).parents)
    # Cand. 1 and 2 are trained from scratch settings of DPO v2 and v3, not from those models.
    assert names == [
        *("base", "upscaled", "solar", "sft_v3", "cand_1", "sft_v4", "sft_v3_v4", "cand_2"),
        "merge_v1",
    ]


def test_depth_by_name():
    assert variants.variant("upscaled_m12").layer_map == "dus:12"


@pytest.mark.parametrize(
    ("typed", "meant"), [("dpo_2", "dpo_v2"), ("sft_v5", "sft_v"), ("solar_instuct", "solar_instruct")]
)
def test_unknown_variant_suggests_the_nearest(typed, meant):
    with pytest.raises(UserError, match=f"variant '{typed}' does not exist; did you mean '{meant}"):
        variants.variant(typed)


def test_the_graph_prints_every_variant_on_a_line():
    lines = variants.describe().splitlines()
    assert [line.split()[0] for line in lines] == [*variants.PAPER, *variants.CONTROLS]
