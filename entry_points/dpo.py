"""Train by direct preference optimisation: dpo_v1 … dpo_v3, cand_1, cand_2 (Sec. 3, Tables 4–6)."""

from entry_points.command import make, run_main


def main() -> None:
    make(__doc__, "dpo", lambda plan, variant: plan.model(variant), "dpo_v2")


if __name__ == "__main__":
    run_main(main)
