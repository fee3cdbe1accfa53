"""Depthwise scaling (Sec. 2): two copies of the base, m layers cut from each, stacked."""

from entry_points.command import make, run_main


def main() -> None:
    make(__doc__, "upscale", lambda plan, variant: plan.model(variant), "upscaled")


if __name__ == "__main__":
    run_main(main)
