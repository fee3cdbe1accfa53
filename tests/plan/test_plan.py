import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from solar_repro.data.locate import Location
from solar_repro.errors import UserError
from solar_repro.paper import variants
from solar_repro.paper.benchmarks import H6_BENCHMARKS
from solar_repro.paper.data_sets import DATASETS, FILTERED_TASKS
from solar_repro.plan.plan import Plan
from solar_repro.plan.step import ordered
from solar_repro.scales.load import load_scale
from solar_repro.scales.section import plain
from tests.steps import bare_step

SHAPE = (
    "{hidden_size: 8, intermediate_size: 8, num_hidden_layers: 6, num_attention_heads: 2, "
    "num_key_value_heads: 1, vocab_size: 9}"
)


@pytest.fixture(scope="module")
def plan():
    return Plan(load_scale("check"))


def keys(plan):
    return {step.label: step.key for step in plan.main()}


def changed(override, value):
    """Labels of the steps of `check` whose key an override changes."""
    before, after = keys(Plan(load_scale("check"))), keys(Plan(load_scale("check", {override: value})))
    return {label for label in before if before[label] != after[label]}


def descendants(*names):
    """Labels of everything made from the named variants, themselves included, and of their scores."""
    below = {name for name in variants.MAIN if {found.name for found in variants.lineage(name)} & set(names)}
    tests = {"merge_v1.contamination", "merge_v1_positive", "merge_v1_positive.contamination"}
    pairs = {f"dpo_{number}.reference" for number in ("v1", "v2", "v3") if _starts_from(number, below)}
    return below | {f"{name}.evaluate" for name in below} | pairs | (tests if "merge_v1" in below else set())


def _starts_from(number, names):
    return variants.variant(f"dpo_{number}").parents[0] in names


def test_main_scores_every_variant_of_the_tables(plan):
    labels = [step.label for step in plan.main()]
    assert len(labels) == len(set(labels))
    for name in variants.PAPER:
        assert labels.index(f"{name}.evaluate") > labels.index(name)
    assert {"merge_v1.contamination", "merge_v1_positive.contamination"} < set(labels)


@pytest.fixture
def asked(monkeypatch):
    """A hub that has every model and set but one; which sets it was asked for."""
    sets = []

    def found(hub_id, mirror, stand_in=None):
        sets.append(hub_id)
        if hub_id == DATASETS["orca_dpo_pairs"].hub_id:
            raise UserError(f"data set {hub_id}: the hub did not give it")
        return Location(hub_id, hub_id, None, "1")

    monkeypatch.setattr("solar_repro.plan.locations.locate", found)
    monkeypatch.setattr("solar_repro.plan.plan.fingerprint_model", lambda model, setting: "revision:1")
    return sets


def test_everything_is_main_and_what_else_can_be_asked_for(plan, asked):
    labels = {step.label for step in plan.everything()}
    assert labels >= {step.label for step in plan.main()} | {
        "orca_dpo_pairs",
        "upscaled_block_expansion.evaluate",
    }
    labels = {step.label for step in Plan(load_scale("paper")).everything()}
    assert {"openorca", "upscaled_block_expansion.evaluate"} < labels
    assert "orca_dpo_pairs" not in labels  # neither mirror nor hub has it


def test_a_set_is_asked_for_once(asked):
    Plan(load_scale("paper")).main()
    assert len(asked) == len(set(asked)) > len(H6_BENCHMARKS)


def test_inputs_come_first(plan):
    seen = set()
    for step in plan.main():
        assert {parent.key for parent in step.inputs.values()} <= seen
        seen.add(step.key)


def test_keys_are_the_same_in_another_plan(plan):
    assert keys(plan) == keys(Plan(load_scale("check")))


def test_a_changed_dpo_setting_reruns_dpo_and_what_stands_on_it_alone():
    tuned = ("dpo_v1", "dpo_v2", "dpo_v3", "cand_1", "cand_2")
    assert changed("dpo.beta", "0.2") == descendants(*tuned)


def test_a_changed_candidate_reruns_its_merges_alone():
    assert changed("cand_1.beta", "0.2") == descendants("cand_1")


def test_a_changed_slerp_position_reruns_merge_v4_alone():
    assert changed("merge.slerp_t", "0.4") == descendants("merge_v4")


def test_a_repeat_moves_the_seed_of_every_training_and_nothing_else():
    trained = descendants("solar", "repeat_continued", "scratch_continued") | {"corpus.packed"}
    assert changed("seed_offset", "1") == trained
    steps = {step.label: step for step in Plan(load_scale("check", {"seed_offset": "1"})).main()}
    assert {label for label, step in steps.items() if step.training_seed == 43} == trained
    assert {step.training_seed for label, step in steps.items() if label not in trained} == {None}
    assert steps["sft_v1.evaluate"].settings.seed == 42  # the same items


def test_limits_of_the_evaluation_rerun_evaluations_alone():
    assert changed("evaluate.limits.ARC", "3") == {f"{name}.evaluate" for name in variants.MAIN}


def test_another_table_8_reruns_what_is_tuned_on_openorca(monkeypatch):
    before = keys(Plan(load_scale("check")))
    shorter = replace(DATASETS["openorca"], filtered_tasks=FILTERED_TASKS[:-1])
    monkeypatch.setattr("solar_repro.plan.plan.DATASETS", {**DATASETS, "openorca": shorter})
    after = keys(Plan(load_scale("check")))
    assert {label for label in before if before[label] != after[label]} == descendants("sft_v2", "sft_v3")


def test_a_folder_of_texts_as_the_corpus(tmp_path):
    """Its content is part of the key, also where all else is of the embedded world."""
    (tmp_path / "train.txt").write_text("a text\n")
    (tmp_path / "validation.txt").write_text("a text held out\n")
    override = {"data.corpus.id": str(tmp_path)}
    before = Plan(load_scale("check", override)).model("solar")
    assert set(before.data) == {f"local/{tmp_path.name}"}
    (tmp_path / "train.txt").write_text("another text\n")
    assert Plan(load_scale("check", override)).model("solar").key != before.key


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.txt": "a text\n"}, "has no split 'validation'; it has train"),
        ({"validation.txt": "a text\n"}, "has no split 'train'; it has validation"),
        ({"train.csv": "text\na\n", "validation.csv": "text\na\n"}, r"train\.csv: \.csv cannot be read"),
        ({"train.jsonl": '{"text": "a"}\n', "validation.txt": "a\n"}, "same data file format for all splits"),
        ({"train.jsonl": '{"words": "a"}\n', "validation.jsonl": '{"text": "a"}\n'}, "has no column 'text'"),
        ({"notes.md": "none"}, r"notes\.md: \.md cannot be read"),
        ({".hidden": "none"}, "has no data files"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_refused_by_the_plan(files, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    plan = Plan(load_scale("check", {"data.corpus.id": str(tmp_path)}))
    for make in (plan.model, plan.evaluation):
        with pytest.raises(UserError, match=f"{tmp_path}.*{message}"):
            make("solar")


def test_a_corpus_of_the_mirror_is_looked_at_too(tmp_path):
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "train.txt").write_text("a text\n")
    override = {"data.mirror": str(tmp_path), "data.corpus.id": "org/name"}
    with pytest.raises(UserError, match="org/name has no split 'validation'"):
        _ = Plan(load_scale("laptop", override)).locations.corpus


def test_decontamination_reruns_what_is_tuned_on_the_set():
    assert changed("data.decontaminate", "[openorca]") == descendants("sft_v2", "sft_v3")
    synthetic = "[synth_math_instruct, synth_math_alignment]"
    assert changed("data.decontaminate", synthetic) == descendants("sft_v3", "sft_v4", "dpo_v2") | {
        "synth_math"
    }


def tiny_base(shared) -> dict[str, str]:
    """A real base of five layers, and how Synth. Math is made where MetaMathQA is not in the mirror."""
    math = {"data.math": "rule", "data.math_seed_split": "test"}
    return {"base.model": str(shared / "models" / "stories260K"), "upscale.m": "1", **math}


def test_flan_is_an_input_of_the_filter(shared, tmp_path, monkeypatch):
    """Its content, or without it that of the benchmarks whose n-grams stand in, is part of the key."""
    for name in ("Open-Orca/OpenOrca", "Open-Orca/FLAN"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "README.md").write_text(name)
    for found in (shared / "hub").glob("*/*"):
        (tmp_path / found.parent.name).mkdir(exist_ok=True)
        (tmp_path / found.relative_to(shared / "hub")).symlink_to(found)
    override = tiny_base(shared) | {"data.mirror": str(tmp_path)}
    step = Plan(load_scale("laptop", override)).model("sft_v2")
    assert {"Rowan/hellaswag", "openai/gsm8k"} < set(step.data)
    joined = Plan(load_scale("laptop", override | {"data.flan": "Open-Orca/FLAN"})).model("sft_v2")
    assert joined.parameters()["datasets.openorca.flan"] == "Open-Orca/FLAN"
    assert set(joined.data) == {"llamafactory/alpaca_en_demo", "Open-Orca/OpenOrca", "Open-Orca/FLAN"}


def test_what_only_says_where_or_how_things_are_logged_changes_nothing():
    assert changed("tracking.checkpoints", "reference") == set()
    assert changed("num_proc", "2") == set()


def test_dpo_v2_stands_on_exactly_its_lineage(plan):
    labels = [step.label for step in ordered([plan.model("dpo_v2")])]
    assert sorted(labels) == sorted(
        [
            *("microworld", "base", "corpus.packed", "upscaled", "solar", "synth_math", "sft_v3"),
            *("dpo_v2.reference", "dpo_v2"),
        ]
    )


def test_parameters_are_flat_and_dotted(plan):
    parameters = plan.model("dpo_v2").parameters()
    assert parameters["dpo.beta"] == "0.1"
    assert parameters["datasets.ultrafeedback.id"] == DATASETS["ultrafeedback"].hub_id
    assert "learning_rate" not in parameters  # a Trainer field's own name would clash with its callback
    assert all(isinstance(value, str) for value in parameters.values())


def test_a_real_mirror_is_fingerprinted_by_content(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("SOLAR_MIRROR", str(shared / "hub"))
    override = tiny_base(shared)
    before = keys(Plan(load_scale("laptop", override)))
    # The same content elsewhere has the same keys.
    (tmp_path / "hub").symlink_to(shared / "hub")
    monkeypatch.setenv("SOLAR_MIRROR", str(tmp_path / "hub"))
    assert keys(Plan(load_scale("laptop", override))) == before


def test_stand_ins_are_recorded(shared, monkeypatch):
    monkeypatch.setenv("SOLAR_MIRROR", str(shared / "hub"))
    override = tiny_base(shared)
    step = Plan(load_scale("laptop", override)).model("sft_v2")
    assert step.parameters()["datasets.openorca.id"] == "google-research/flan-cot"
    assert set(step.data) == {"llamafactory/alpaca_en_demo", "google-research/flan-cot"}


def test_missing_mirror_and_model_are_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("SOLAR_MIRROR", raising=False)
    with pytest.raises(UserError, match=r"data\.mirror: .*nowhere is not a folder"):
        Plan(load_scale("laptop", {"data.mirror": str(tmp_path / "nowhere")}))
    override = {"data.mirror": str(tmp_path), "base.model": str(tmp_path / "none")}
    with pytest.raises(UserError, match=r"base\.model: .*none is not a folder"):
        Plan(load_scale("laptop", override)).model("base")


def test_provenance_is_json(plan):
    for step in plan.main():
        json.dumps(plain(step.settings))


@pytest.mark.parametrize(
    ("base", "variant", "message"),
    [
        (
            {"upscale.m": "2"},
            "solar",
            "upscale.m: dus: m must lie between 1 and 1 for a base of 4 layers",
        ),
        (
            {},
            "solar_m2",
            "variant upscaled_m2: dus: m must lie between 1 and 1 for a base of 4",
        ),
        ({}, "upscaled_0-3_1-5", "variant upscaled_0-3_1-5: .* '1-5' must be first-end with .* ≤ 4"),
        ({"base.model": "FOLDER"}, "upscaled_m4", "between 1 and 2 for a base of 5 layers, not 4"),
        ({"base.model": "FOLDER"}, "upscaled_0-6", "'0-6' must be first-end with .* ≤ 5"),
        ({"base.model": "org/name", "base.shape": SHAPE}, "upscaled_m3", "between 1 and 2 for a base of 6"),
    ],
)
def test_layers_that_cannot_be_are_refused_before_anything_is_made(shared, base, variant, message):
    folder = str(shared / "models" / "stories260K")
    changes = {name: folder if value == "FOLDER" else value for name, value in base.items()}
    with pytest.raises(UserError, match=message):
        Plan(load_scale("check", changes), dry=True).evaluation(variant)


def test_a_base_that_is_not_known_yet_refuses_nothing(monkeypatch):
    monkeypatch.setattr("solar_repro.plan.plan.fingerprint_model", lambda model, setting: "revision:1")
    plan = Plan(load_scale("check", {"base.model": "org/name", "upscale.m": "90"}))
    assert plan.base_layers is None
    assert plan.model("solar").inputs["model"].settings.m == 90


def given(folder, content="{}"):
    """A folder that passes for a checkpoint."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(content)
    save_file({"weight": np.zeros(1)}, folder / "model.safetensors")
    return str(folder)


def test_checkpoints_of_one_folder_name_are_two(plan, tmp_path):
    one, other = given(tmp_path / "a" / "final"), given(tmp_path / "b" / "final", '{"x": 1}')
    first, second = plan.evaluation_of(one), plan.evaluation_of(other)
    assert first.label == second.label == "final.evaluate"
    assert first.key != second.key
    assert first.folder != second.folder
    # Of one content they are one, wherever it lies.
    assert plan.evaluation_of(given(tmp_path / "c" / "final")).key == first.key


def test_a_checkpoint_is_called_by_its_folder_however_it_is_named(plan, tmp_path, monkeypatch):
    folder = given(tmp_path / "SOLAR-10.7B-v1.0")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (folder, folder + "/", ".", "../SOLAR-10.7B-v1.0", "~/SOLAR-10.7B-v1.0"):
        step = plan.evaluation_of(name)
        assert step.folder == f"SOLAR-10.7B-v1.0.evaluate-{step.key[:8]}", name


def test_a_variant_and_a_checkpoint_of_its_name_are_two(plan, tmp_path):
    assert plan.evaluation_of(given(tmp_path / "solar")).key != plan.evaluation("solar").key


@pytest.mark.parametrize("name", ["merge.v1" * 40, "é" * 120, "ties.v2"])
def test_results_of_any_name_have_folders_of_their_own(name):
    one, other = (bare_step("merge", name, weights=weights) for weights in ([0.5], [0.25]))
    assert one.folder != other.folder
    assert one.folder.endswith(f"-{one.key[:8]}")
    assert len(one.folder.encode()) < 128  # beside it lie others of longer names, of at most 255 bytes


def test_settings_that_look_alike_have_keys_of_their_own():
    settings = [{"a": 1}, {"a": "1"}, {"a": True}, {"a": None}, {"a": "None"}, {"a": [1]}, {"a": {"1": 1}}]
    steps = [bare_step("merge", "x", **found) for found in settings]
    steps += [
        bare_step("merge", "x", data={"model_1": "sha256:1"}),
        bare_step("merge", "x", data={"model_2": "sha256:1"}),
    ]
    steps += [bare_step("merge", "x", {role: steps[0]}) for role in ("first", "second")]
    assert len({step.key for step in steps}) == len(steps)


def test_what_is_not_proved_of_a_base_is_refused_before_anything_is_copied(tmp_path):
    from tests.tiny_decoders import random_model

    folder = tmp_path / "gpt2"
    random_model("gpt2", scale_attn_by_inverse_layer_idx=True).save_pretrained(folder)
    override = {"base.model": str(folder), "upscale.m": "1"}
    with pytest.raises(UserError, match=f"^{folder}/config.json: .*new layer 3, a copy of layer 1"):
        Plan(load_scale("check", override)).model("upscaled")
    step = Plan(load_scale("check", {**override, "upscale.unproved": "true"})).model("upscaled")
    assert step.settings.unproved is True
    assert "unproved" not in plain(Plan(load_scale("check")).model("upscaled").settings)


def test_the_sets_of_a_step_are_looked_at_once(monkeypatch):
    looked = []
    look = Plan._datasets
    monkeypatch.setattr(Plan, "_datasets", lambda plan, names: looked.append(names) or look(plan, names))
    steps = Plan(load_scale("check")).main()
    assert len(looked) == sum(step.stage in ("sft", "reference", "dpo") for step in steps)
