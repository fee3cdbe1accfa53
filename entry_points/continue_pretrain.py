"""Continue the pretraining of an up-scaled model (Sec. 2)."""

from entry_points.command import make, run_main


def main() -> None:
    make(__doc__, "continue_pretrain", lambda plan, variant: plan.model(variant), "solar")


if __name__ == "__main__":
    run_main(main)
