"""Merges and up-scalings beyond the paper's: any checkpoints by a recipe, any ranges of layers."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from solar_repro.errors import UserError
from solar_repro.plan.merge_recipe import load_recipe
from tests.runs import copy_of


def written(place, name):
    return load_file(place.folder(name) / "model.safetensors")


def test_recipes_merge_folders_and_are_cached(finished, tmp_path, here):
    place = copy_of(finished, tmp_path)
    one, other, base = (place.folder(name) for name in ("sft_v3", "sft_v4", "solar"))
    average, arithmetic = tmp_path / "mean.yaml", tmp_path / "vectors.yaml"
    average.write_text(f"method: average\nmodels: ['{one}', '{other}']\n")
    arithmetic.write_text(
        f"method: task_arithmetic\nmodels: ['{one}', '{other}']\nbase: '{base}'\n"
        "weights: {'*.mlp.*': [1, 0], '*': [0, 2]}\nscale: 0.5\n"
    )
    for recipe in (average, arithmetic):
        done = here(place, "merge", "--recipe", str(recipe))
        assert done.returncode == 0, done.stderr
    paper = place.folder("sft_v3_v4") / "model.safetensors"
    assert (place.folder("mean") / "model.safetensors").read_bytes() == paper.read_bytes()
    for name, tensor in written(place, "vectors").items():
        parent = written(place, "sft_v3" if ".mlp." in name else "sft_v4")[name]
        origin = written(place, "solar")[name]
        share = 0.5 if ".mlp." in name else 1.0
        np.testing.assert_allclose(tensor, origin + share * (parent - origin), rtol=1e-5, atol=1e-7)
    (run,) = place.runs("tags.`solar.variant` = 'vectors'")
    assert run.info.status == "FINISHED"
    assert run.data.params["method"] == "task_arithmetic"
    assert {found.dataset.name for found in run.inputs.dataset_inputs} == {"model_1", "model_2", "base"}
    assert "cached" in here(place, "merge", "--recipe", str(average)).stderr


def test_ranges_of_layers_are_a_variant(finished, tmp_path, here):
    place = copy_of(finished, tmp_path)
    done = here(place, "upscale", "--variant", "upscaled_0-3_1-4")
    assert done.returncode == 0, done.stderr
    dus = place.folder("upscaled") / "model.safetensors"
    assert (place.folder("upscaled_0-3_1-4") / "model.safetensors").read_bytes() == dus.read_bytes()
    done = here(place, "upscale", "--variant", "upscaled_0-3_1-5")
    assert done.returncode == 2
    assert "'1-5' must be first-end with 0 ≤ first < end ≤ 4" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: tie\nmodels: [a, b]", "method = 'tie': input should be 'average', 'slerp'"),
        ("method: ties\nmodel: [a, b]", "unknown key 'model'; did you mean 'models'?"),
        ("method: ties\nmodels: []", "models = []: list should have at least 1 item"),
        ("method: slerp\nmodels: [a, b]\nt: true", "t: a number is needed, not true or false"),
        ("method: average\nmodels: [a, b]\nweights: [true, 1]", "weights: a number is needed"),
        ("method: average\nmodels: [a, '']", "models.1 = '': string should have at least 1 character"),
        ("- a\n- b", "expected keys such as 'method:' and 'models:'"),
        ("method: [", "not YAML"),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path, text, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"recipe\.yaml: ") as error:
        load_recipe(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_recipe(tmp_path / "none.yaml")
