"""The whole paper at one scale: every variant, its scores, and the comparison with the paper's tables."""

from entry_points.command import parse, run_main, running, ui_command


def main() -> None:
    arguments = parse(__doc__)
    from benchmarks.compare import compare
    from solar_repro.plan import Plan

    plan = Plan(arguments.scale)
    steps = plan.main()
    with running(arguments, f"main {arguments.scale.name}") as runner:
        runner.all(steps)
        report = compare(plan, runner.tracker, runner.store / "report" / arguments.scale.name)
    print(f"report: {report}")
    print(f"UI: {ui_command()}")


if __name__ == "__main__":
    run_main(main)
