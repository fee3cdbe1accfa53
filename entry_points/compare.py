"""Compare a scale's runs with the paper: judge its claims, write tables and pictures (HTML, CSV)."""

from entry_points.command import SEEDS, names_in, parse, plan_main, plans, run_main, running
from solar_repro.errors import UserError


def main() -> None:
    arguments = parse(
        __doc__,
        seeds=SEEDS,
        experiment={"help": "compare the scale's runs of this MLflow experiment"},
        parent={"help": "compare the runs that this run of `main` made or reused, and log to it"},
        runs={"help": "compare the runs with these ids, separated by commas"},
    )
    from benchmarks.closing import closing_text
    from benchmarks.compare import compare
    from benchmarks.find_runs import of_plans, of_server
    from solar_repro.terminal.progress import show_activity

    options, scale = arguments.options, arguments.scale
    ids = names_in(options, "runs")
    chosen = {
        name: getattr(options, name) for name in ("experiment", "parent", "runs") if getattr(options, name)
    }
    if len(chosen) > 1:
        raise UserError(f"--{' and --'.join(chosen)}: these options exclude each other; give only one")
    by_key = plans(arguments)
    if not chosen:
        plan_main(by_key)
    with running(arguments, f"compare {scale.name}") as runner:
        if chosen:
            runs = of_server(
                scale.name, runner.tracker, experiment=options.experiment, parent=options.parent, ids=ids
            )
        else:
            runs = of_plans(by_key, runner.tracker, store=runner.store)
        out = runner.store / "report" / scale.name
        with show_activity("writing the report"):
            report, results = compare(runs, scale, runner.tracker, out, arguments.overrides, options.parent)
    print(closing_text(runs, results, report))


if __name__ == "__main__":
    run_main(main)
