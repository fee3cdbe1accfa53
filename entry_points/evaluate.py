"""H6 and its six tasks for one variant (Sec. 4.1)."""

from entry_points.command import make, run_main


def main() -> None:
    make(__doc__, "evaluate", lambda plan, variant: plan.evaluation(variant), "solar_instruct")


if __name__ == "__main__":
    run_main(main)
