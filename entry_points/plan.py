"""Print the steps of the paper at one scale: what is finished, tokens, disk, GPU-hours and memory."""

from entry_points.command import parse, run_main


def main() -> None:
    arguments = parse(__doc__)
    from solar_repro.plan.dry_run import describe, forecast, refuse_what_cannot_fit
    from solar_repro.plan.plan import Plan

    plan = Plan(arguments.scale, dry=True)
    found = forecast(plan, arguments.store)
    print(describe(plan, found, arguments.store))
    refuse_what_cannot_fit(plan, found)


if __name__ == "__main__":
    run_main(main)
