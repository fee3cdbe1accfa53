"""Prepare and report one set of Table 1: drops by reason, overlap with the benchmarks, a data card."""

from entry_points.command import parse, run_main, running, ui_command


def main() -> None:
    arguments = parse(
        __doc__, dataset={"default": "openorca", "help": "name of the set (default: %(default)s)"}
    )
    from solar_repro.plan import Plan

    step = Plan(arguments.scale).data(arguments.options.dataset)
    with running(arguments, f"data {step.variant}") as runner:
        finished = runner.get(step, runner.tracker.run_id)
    print(finished.output)
    print(f"UI: {ui_command()}")


if __name__ == "__main__":
    run_main(main)
