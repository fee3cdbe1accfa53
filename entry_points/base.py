"""The base model (Sec. 2): a folder, a hub id, or the embedded world's own."""

from entry_points.command import make, run_main


def main() -> None:
    make(__doc__, "base", lambda plan, variant: plan.model(variant), "base")


if __name__ == "__main__":
    run_main(main)
