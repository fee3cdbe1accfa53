"""Tokenise and pack the text of continued pretraining, which needs no GPU."""

from entry_points.command import make_step, parse, run_main


def main() -> None:
    make_step(parse(__doc__), "packed", lambda plan: plan.packed())


if __name__ == "__main__":
    run_main(main)
