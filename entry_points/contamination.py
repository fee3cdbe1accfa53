"""The contamination test of Table 9, and Min-K % Prob, for one variant."""

from entry_points.command import make, run_main


def main() -> None:
    make(__doc__, "contamination", lambda plan, variant: plan.contamination(variant), "solar_instruct")


if __name__ == "__main__":
    run_main(main)
