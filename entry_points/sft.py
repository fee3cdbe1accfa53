"""Train by instruction tuning: sft_v1 … sft_v4 (Sec. 3, Table 3)."""

from entry_points.command import make, run_main


def main() -> None:
    make(__doc__, "sft", lambda plan, variant: plan.model(variant), "sft_v3")


if __name__ == "__main__":
    run_main(main)
