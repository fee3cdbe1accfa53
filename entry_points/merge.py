"""Merge models: sft_v3_v4, dpo_v1_v2, merge_v1 … merge_v4 (Sec. 4.1, Table 7), or any others by a recipe."""

from pathlib import Path

from entry_points.command import make_step, parse, place, run_main, variant_option


def main() -> None:
    recipe = {
        "type": place,
        "help": "YAML file that describes any other merge (see solar_repro/plan/merge_recipe.py)",
    }
    arguments = parse(__doc__, variant=variant_option("solar_instruct"), recipe=recipe)
    if not arguments.options.recipe:
        make_step(arguments, "merge", lambda plan: plan.model(arguments.options.variant))
        return
    from solar_repro.plan.merge_recipe import load_recipe, merge_step

    file = Path(arguments.options.recipe)
    step = merge_step(load_recipe(file), file.stem)
    make_step(arguments, "merge", lambda plan: step)


if __name__ == "__main__":
    run_main(main)
