"""Make, score and print one of the paper's tables beside ours, or a study of depth, seam or seeds.

Table 2 scores the released checkpoints instead, the cheapest reproduction that one GPU can do.
"""

from entry_points.command import (
    SEEDS,
    Arguments,
    check_overrides,
    joined,
    names_in,
    parse,
    plans,
    run_main,
    running,
)
from solar_repro.errors import UserError


def main() -> None:
    arguments = parse(
        __doc__,
        table={"default": "3", "help": "number of the table, 2 … 7 (default: %(default)s)"},
        rows={
            "help": "for Table 2: rows to score, separated by commas (default: all that fit the device)",
        },
        dry_run={
            "default": "false",
            "choices": ["true", "false"],
            "help": "for Table 2: only print what would be downloaded and how much memory is needed",
        },
        study={
            "help": "study to make instead of a table: untrained (ways to up-scale, before training), depth "
            "(varies m), seam (ways to up-scale, on equal tokens) or seeds",
        },
        seeds=SEEDS,
        variants={
            "help": "variants, separated by commas: for the study of seeds (default: those of Table 3), the "
            "continued ones for the study seam (default: every way), or further up-scaled ones for the study "
            "untrained, such as upscaled_0-24_8-32",
        },
    )
    options = arguments.options
    if options.study:
        if options.study not in ("untrained", "depth", "seam", "seeds"):
            raise UserError(f"--study {options.study}: no such study; choose untrained, depth, seam or seeds")
        if options.study == "seeds" and options.seeds < 2:
            raise UserError("--study seeds: needs at least two seeds; give their number, such as -P seeds=5")
        untrained(arguments) if options.study == "untrained" else study(arguments)
    elif options.table == "2":
        table_2(arguments)
    elif options.table in ("3", "4", "5", "6", "7"):
        table(arguments, int(options.table))
    else:
        raise UserError(f"--table {options.table}: no such table; choose 2, 3, 4, 5, 6 or 7")


def table(arguments: Arguments, number: int) -> None:
    from benchmarks.find_runs import of_plans
    from benchmarks.tables import table_text
    from solar_repro.paper.variants import PAPER
    from solar_repro.running.whole_plan import make_all

    chosen = plans(arguments)
    names = [variant.name for variant in PAPER.values() if number in variant.rows]
    steps = [plan.evaluation(name) for plan in chosen for name in names]
    check_overrides(arguments, steps)
    if joined(arguments, steps):
        return
    with running(arguments, f"ablation table {number}") as runner:
        make_all(runner, steps)
        print(table_text(number, of_plans(chosen, runner.tracker, names, runner.store)))


def table_2(arguments: Arguments) -> None:
    from solar_repro.h6.released import accepted, candidates, describe, device_memory
    from solar_repro.plan.plan import Plan
    from solar_repro.running.whole_plan import make_all
    from solar_repro.scales.settings import EMBEDDED

    scale, rows = arguments.scale, arguments.options.rows
    if scale.data.mirror == EMBEDDED:
        raise UserError(
            f"scale {scale.name}: its benchmarks are those of the embedded world; score released "
            "checkpoints on the real ones, from the hub or a mirror: -P scale=laptop"
        )
    plan = Plan(scale)
    memory = device_memory()
    found = candidates(rows, scale.data.mirror_folder, scale.evaluate.batch_tokens, memory)
    if arguments.options.dry_run == "true":
        print(describe(found, memory))
        return
    scored = accepted(found, named=bool(rows))
    for candidate in found:
        if candidate.refusal:
            print(f"row {candidate.released.row!r} is left out: {candidate.refusal}")
    from benchmarks.find_runs import of_steps
    from benchmarks.tables import table_text

    steps = {
        candidate.released.row: plan.evaluation_of(candidate.released.hub_id, candidate.released.dtype)
        for candidate in scored
    }
    if joined(arguments, list(steps.values())):
        return
    with running(arguments, "ablation table 2") as runner:
        make_all(runner, list(steps.values()))
        runs = of_steps(scale.name, steps.values(), runner.tracker, runner.store)
        print(table_text(2, runs, {row: step.variant for row, step in steps.items()}))


def untrained(arguments: Arguments) -> None:
    from benchmarks.studies import finish
    from benchmarks.untrained import untrained_study
    from solar_repro.paper import variants

    (plan,) = plans(arguments)[:1]
    further = [variants.variant(name) for name in names_in(arguments.options, "variants")]
    for given in further:
        if given.stage != "upscale":
            raise UserError(f"--variants {given.name}: study untrained takes up-scaled models alone")
    step = plan.untrained(given.layer_map for given in further if given.layer_map != "dus")
    if joined(arguments, [step]):
        return
    with running(arguments, "study untrained") as runner:
        folder = runner.get(step).output
        out = runner.store / "report" / f"{arguments.scale.name}-untrained"
        found = untrained_study(folder, arguments.scale.data.corpus.id)
        print(finish(found, arguments.scale.name, runner.tracker, out))


def study(arguments: Arguments) -> None:
    from benchmarks import studies
    from benchmarks.find_runs import of_plans
    from solar_repro.checkpoint.folder import open_checkpoint
    from solar_repro.paper import variants
    from solar_repro.running.whole_plan import make_all

    name, chosen, m = arguments.options.study, plans(arguments), arguments.scale.upscale.m
    layers = chosen[0].base_layers
    if name == "depth":
        names = () if layers is None else studies.depth_variants(layers, m)
    else:
        given = names_in(arguments.options, "variants")
        default = studies.SEAM if name == "seam" else studies.SEEDS
        names = tuple(variants.variant(part).name for part in given) or default
        other = [found for found in names if variants.variant(found).stage != "continue_pretrain"]
        if name == "seam" and other:
            raise UserError(f"--variants {other[0]}: study seam takes models of continued pretraining alone")
    steps = [plan.evaluation(variant) for plan in chosen for variant in names]
    if arguments.scale.execution.machine_rank and not names:
        raise UserError(
            "base.model: how many layers it has is known once it is fetched; start this study on several "
            "machines after: mlflow run . -e base"
        )
    if joined(arguments, steps):
        return
    with running(arguments, f"study {name}") as runner:
        if not names:  # how many layers a hub id has is known once it is fetched
            base = open_checkpoint(runner.get(chosen[0].model("base")).output)
            names = studies.depth_variants(base.layers, m)
            steps = [plan.evaluation(variant) for plan in chosen for variant in names]
        make_all(runner, steps)
        parents = [variants.variant(variant).parents[0] for variant in names]
        runs = of_plans(chosen, runner.tracker, [*names, *parents, "base"], runner.store)
        if name == "seeds":
            found = studies.seeds_study(names, runs)
        else:
            found = studies.up_scaling_study(name, names, runs)
        out = runner.store / "report" / f"{arguments.scale.name}-{name}"
        print(studies.finish(found, arguments.scale.name, runner.tracker, out, runs))


if __name__ == "__main__":
    run_main(main)
