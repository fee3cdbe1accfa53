"""Make the whole paper at one scale: every variant, its scores, the comparison, the registered model."""

from entry_points.command import SEEDS, check_overrides, joined, parse, plan_main, plans, run_main, running


def main() -> None:
    arguments = parse(__doc__, seeds=SEEDS)
    from benchmarks.closing import closing_text
    from benchmarks.compare import compare
    from benchmarks.find_runs import of_plans
    from benchmarks.registry import INSTRUCT, register_instruct
    from benchmarks.run_page import ui_lines
    from solar_repro.running.whole_plan import make_all
    from solar_repro.terminal.progress import show_activity

    chosen = plans(arguments)
    steps = plan_main(chosen)
    check_overrides(arguments, steps)
    if joined(arguments, steps):
        return
    with running(arguments, f"main {arguments.scale.name}") as runner:
        make_all(runner, steps)
        runs = of_plans(chosen, runner.tracker, store=runner.store)
        out = runner.store / "report" / arguments.scale.name
        with show_activity("writing the report"):
            report, results = compare(runs, arguments.scale, runner.tracker, out, arguments.overrides)
        with show_activity("registering the instruct model"):
            instruct = runner.get(chosen[0].model(INSTRUCT))
            registered = register_instruct(runs, arguments.scale, runner.tracker, instruct)
    pages = ui_lines(runs, runner.tracker.run_id, runner.tracker.experiment_id)
    print(closing_text(runs, results, report, registered))
    print(pages)


if __name__ == "__main__":
    run_main(main)
