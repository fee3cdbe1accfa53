"""Make the base model (Sec. 2): a folder, a hub id, or the embedded world's own base."""

from entry_points.command import make_step, parse, run_main


def main() -> None:
    make_step(parse(__doc__), "base", lambda plan: plan.model("base"))


if __name__ == "__main__":
    run_main(main)
