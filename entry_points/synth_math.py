"""Synth. Math-Instruct and Synth. Math-Alignment (Sec. 3)."""

from entry_points.command import make, run_main


def main() -> None:
    make(__doc__, "synth_math", lambda plan, _: plan.synth_math(), "synth_math")


if __name__ == "__main__":
    run_main(main)
