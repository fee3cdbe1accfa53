"""Prepare one data set of Table 1; report dropped rows, overlap with the benchmarks, and a data card."""

from entry_points.command import make_step, parse, run_main
from solar_repro.paper.data_sets import DATASETS


def main() -> None:
    arguments = parse(
        __doc__,
        dataset={
            "default": "openorca",
            "help": f"name of the data set: {', '.join(DATASETS)} (default: %(default)s)",
        },
    )
    make_step(arguments, "data", lambda plan: plan.data(arguments.options.dataset))


if __name__ == "__main__":
    run_main(main)
