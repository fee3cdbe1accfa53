"""A merge of any checkpoints, outside the paper's graph, as one YAML file.

method: ties
models: [~/models/one, org/another]
base: org/base
weights: [0.7, 0.3]
density: 0.5
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from solar_repro.checkpoint.model_source import fingerprint_model
from solar_repro.contract import MergeSettings
from solar_repro.errors import UserError
from solar_repro.plan.step import Step
from solar_repro.safety.plain_yaml import read_yaml_file
from solar_repro.scales.explain import explain


class MergeRecipe(MergeSettings):
    """What to merge and how; `models` and `base` are folders or hub ids."""

    models: Annotated[list[str], Field(min_length=1)]
    base: str | None = None
    """The model that task vectors are differences from (TIES, DARE, task arithmetic)."""
    device: str = "cpu"


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
    settings = MergeSettings.model_validate(recipe.model_dump(exclude=set(places)))
    data = {role: fingerprint_model(model, role) for role, model in given.items()}
    return Step("merge", name, settings, data=data, places=places)
