"""Prepare and report one set of Table 1: drops by reason, overlap with the benchmarks, a data card."""

from entry_points.command import make_step, parse, run_main


def main() -> None:
    arguments = parse(
        __doc__, dataset={"default": "openorca", "help": "name of the set (default: %(default)s)"}
    )
    make_step(arguments, "data", lambda plan: plan.data(arguments.options.dataset))


if __name__ == "__main__":
    run_main(main)
