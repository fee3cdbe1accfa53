"""The regression gate: compare a scale's runs with its baseline; exit code 1 if something got worse."""

import sys

from entry_points.command import parse, run_main, running


def main() -> None:
    arguments = parse(
        __doc__, update={"default": "false", "choices": ["true", "false"], "help": "rewrite the baseline"}
    )
    from benchmarks import regression
    from solar_repro.plan import Plan

    plan = Plan(arguments.scale)
    with running(arguments, f"regression {arguments.scale.name}") as runner:
        if arguments.options.update == "true":
            print(regression.update(plan, runner.tracker))
            return
        baseline = regression.read_baseline(arguments.scale.name)
        lines = list(regression.moved(baseline, regression.measure(plan, runner.tracker)))
    print("\n".join(lines) or f"no regression in {len(baseline)} variants")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    run_main(main)
