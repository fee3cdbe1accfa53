"""The whole paper at one scale: every variant, its scores, the comparison with the paper, the registry."""

from entry_points.command import SEEDS, parse, plan_main, plans, run_main, running, ui_command
from solar_repro.launch import follow


def main() -> None:
    arguments = parse(__doc__, seeds=SEEDS)
    from benchmarks.compare import claims_text, compare
    from benchmarks.registry import register_instruct
    from benchmarks.run_page import ui_lines
    from benchmarks.runs import of_plans

    chosen = plans(arguments)
    steps = plan_main(chosen)
    if arguments.scale.machine_rank:
        follow(arguments.store, steps, arguments.scale)
        return
    with running(arguments, f"main {arguments.scale.name}") as runner:
        runner.all(steps)
        runs = of_plans(chosen, runner.tracker)
        out = runner.store / "report" / arguments.scale.name
        report, results = compare(runs, arguments.scale, runner.tracker, out, arguments.overrides)
        registered = register_instruct(runs, arguments.scale, runner.tracker)
    print(claims_text(results))
    print(registered)
    print(f"report: {report}")
    print(f"UI: {ui_command()}")
    print(ui_lines(runs, runner.tracker.run_id, runner.tracker.experiment_id))


if __name__ == "__main__":
    run_main(main)
