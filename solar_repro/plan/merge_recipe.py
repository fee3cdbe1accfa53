"""A merge of any checkpoints, outside the paper's graph, as one YAML file.

method: ties
models: [~/models/one, org/another]
base: org/base
weights: [0.7, 0.3]
density: 0.5
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from solar_repro.checkpoint.merge_options import Dtype, Method
from solar_repro.checkpoint.model_source import fingerprint_model
from solar_repro.checkpoint.shards import SHARD_BYTES
from solar_repro.errors import UserError
from solar_repro.plan.step import Step
from solar_repro.safety.plain_yaml import read_yaml_file
from solar_repro.scales.explain import explain
from solar_repro.scales.section import Positive, Section, Seed


class MergeRecipe(Section):
    """Arguments of `checkpoint.merge`; `models` and `base` are folders or hub ids."""

    method: Method
    models: Annotated[list[str], Field(min_length=1)]
    base: str | None = None
    """The model that task vectors are differences from (TIES, DARE, task arithmetic)."""
    weights: list[float] | dict[str, list[float]] | None = None
    """One number per model, or a mapping from patterns of tensor names, of which the first match counts."""
    t: float | dict[str, float] = 0.5
    """Position of SLERP between the two models, or a mapping from patterns of tensor names."""
    density: float = 0.5
    """Share of a task vector that TIES and DARE keep."""
    scale: float = 1.0
    dtype: Dtype | None = None
    """Number format of the output. Default: that of the models, or the wider one where they differ."""
    accumulate: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    shard_bytes: Positive = SHARD_BYTES
    seed: Seed = 0
    """Seed of the random choice that DARE makes."""


def load_recipe(file: Path) -> MergeRecipe:
    """Read a recipe; bad input: UserError."""
    content = read_yaml_file(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected keys such as 'method:' and 'models:'")
    try:
        return MergeRecipe.model_validate(content)
    except ValidationError as error:
        raise UserError(explain(error, str(file), MergeRecipe)) from None


def merge_step(recipe: MergeRecipe, name: str) -> Step:
    """The step that makes the recipe's merge; the models' content is part of its key, their place is not."""
    places = {"models": recipe.models, "base": recipe.base, "device": recipe.device}
    given = {f"model_{number}": model for number, model in enumerate(recipe.models, start=1)}
    if recipe.base is not None:
        given["base"] = recipe.base
    settings = recipe.model_dump(exclude=set(places))
    data = {role: fingerprint_model(model, role) for role, model in given.items()}
    return Step("merge", name, settings, data=data, places=places)
