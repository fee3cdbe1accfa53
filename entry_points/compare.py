"""The paper's tables beside the runs of a scale, as Markdown and HTML."""

from entry_points.command import parse, run_main, running, ui_command


def main() -> None:
    arguments = parse(__doc__)
    from benchmarks.compare import compare
    from solar_repro.plan import Plan

    plan = Plan(arguments.scale)
    with running(arguments, f"compare {arguments.scale.name}") as runner:
        report = compare(plan, runner.tracker, runner.store / "report" / arguments.scale.name)
    print(f"report: {report}")
    print(f"UI: {ui_command()}")


if __name__ == "__main__":
    run_main(main)
