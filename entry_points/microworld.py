"""Write the data sets of the embedded world into a folder laid out like the hub (a mirror)."""

from entry_points.command import make_step, parse, run_main


def main() -> None:
    make_step(parse(__doc__), "microworld", lambda plan: plan.microworld())


if __name__ == "__main__":
    run_main(main)
