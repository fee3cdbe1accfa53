"""Make Synth. Math-Instruct and Synth. Math-Alignment (Sec. 3)."""

from entry_points.command import make_step, parse, run_main


def main() -> None:
    make_step(parse(__doc__), "synth_math", lambda plan: plan.synth_math())


if __name__ == "__main__":
    run_main(main)
