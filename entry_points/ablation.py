"""One of the paper's ablation tables beside ours, or a study of depth, seam or seeds: make, score, print."""

from entry_points.command import SEEDS, Arguments, parse, plans, run_main, running
from solar_repro.errors import UserError


def main() -> None:
    arguments = parse(
        __doc__,
        table={"default": "3", "help": "table number, 3 … 7 (default: %(default)s)"},
        study={
            "default": "",
            "help": "instead of a table: depth (sweeps m), seam (ways to up-scale on equal tokens) or seeds",
        },
        seeds=SEEDS,
        variants={
            "default": "",
            "help": "study seeds: which variants, separated by commas (default: Table 3's)",
        },
    )
    options = arguments.options
    if options.study:
        if options.study not in ("depth", "seam", "seeds"):
            raise UserError(f"--study {options.study}: there are depth, seam and seeds")
        if options.study == "seeds" and options.seeds < 2:
            raise UserError("--study seeds: give how many, -P seeds=5")
        study(arguments)
    elif options.table in ("3", "4", "5", "6", "7"):
        table(arguments, int(options.table))
    else:
        raise UserError(f"--table {options.table}: the ablations are Tables 3 to 7")


def table(arguments: Arguments, number: int) -> None:
    from benchmarks.runs import of_plans
    from benchmarks.tables import table_text
    from solar_repro.variants import PAPER

    chosen = plans(arguments)
    names = [variant.name for variant in PAPER.values() if number in variant.rows]
    with running(arguments, f"ablation table {number}") as runner:
        runner.all([plan.evaluation(name) for plan in chosen for name in names])
        print(table_text(number, of_plans(chosen, runner.tracker, names)))


def study(arguments: Arguments) -> None:
    from benchmarks import studies
    from benchmarks.runs import of_plans
    from solar_repro import variants
    from solar_repro.checkpoint.folder import open_checkpoint

    name, chosen = arguments.options.study, plans(arguments)
    with running(arguments, f"study {name}") as runner:
        if name == "depth":
            base = open_checkpoint(runner.get(chosen[0].model("base")).output)
            names = studies.depth_variants(base.layers, arguments.scale.upscale.m)
        elif name == "seam":
            names = studies.SEAM
        else:
            given = [part.strip() for part in arguments.options.variants.split(",") if part.strip()]
            names = tuple(variants.variant(part).name for part in given) or studies.SEEDS
        runner.all([plan.evaluation(variant) for plan in chosen for variant in names])
        parents = [variants.variant(variant).parents[0] for variant in names]
        runs = of_plans(chosen, runner.tracker, [*names, *parents, "base"])
        if name == "seeds":
            found = studies.seeds_study(names, runs)
        else:
            found = studies.up_scaling_study(name, names, runs)
        out = runner.store / "report" / f"{arguments.scale.name}-{name}"
        print(studies.finish(found, runs, runner.tracker, out))


if __name__ == "__main__":
    run_main(main)
