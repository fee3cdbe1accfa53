"""Compare a scale's runs with its baseline; the exit code is 1 if something got worse."""

import sys
from pathlib import Path

from entry_points.command import SEEDS, parse, place, plan_main, plans, run_main, running


def main() -> None:
    arguments = parse(
        __doc__,
        update={"default": "false", "choices": ["true", "false"], "help": "true: write the baseline anew"},
        baseline={
            "type": place,
            "help": "file of the baseline (default: benchmarks/baselines/<scale>.json)",
        },
        seeds=SEEDS,
    )
    from benchmarks import regression

    scale, chosen = arguments.scale.name, plans(arguments)
    plan_main(chosen)
    file = Path(arguments.options.baseline or regression.FOLDER / f"{scale}.json")
    with running(arguments, f"regression {scale}") as runner:
        if arguments.options.update == "true":
            regression.update(chosen, runner.tracker, file, runner.store)
            print(regression.scores_table(regression.read_baseline(file, scale)))
            print(file)
            return
        baseline = regression.read_baseline(file, scale)
        measured = regression.measure(chosen, runner.tracker, runner.store)
        found = list(regression.moved(baseline, measured))
    for line in found:
        print(f"{'WORSE' if line.worse else 'moved'}  {line.text}")
    worse = sum(line.worse for line in found)
    print(f"{worse} regressions in {len(baseline['variants'])} variants")
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    run_main(main)
