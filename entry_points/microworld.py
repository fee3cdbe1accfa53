"""The embedded world: write its mirror of the hub."""

from entry_points.command import make, run_main


def main() -> None:
    make(__doc__, "microworld", lambda plan, _: plan.microworld(), "microworld")


if __name__ == "__main__":
    run_main(main)
