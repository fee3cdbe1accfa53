"""Merging: sft_v3_v4, dpo_v1_v2, merge_v1 … merge_v4 (Sec. 4.1, Table 7)."""

from entry_points.command import make, run_main


def main() -> None:
    make(__doc__, "merge", lambda plan, variant: plan.model(variant), "solar_instruct")


if __name__ == "__main__":
    run_main(main)
