"""Dry run: the steps of the whole paper at one scale, what is finished already, tokens and disk."""

from entry_points.command import parse, run_main


def main() -> None:
    arguments = parse(__doc__)
    from solar_repro.costs import describe
    from solar_repro.plan import Plan

    print(describe(Plan(arguments.scale), arguments.store))


if __name__ == "__main__":
    run_main(main)
