"""One of the paper's ablation tables: make its variants, score them, print it beside the paper's."""

from entry_points.command import parse, run_main, running
from solar_repro.errors import UserError


def main() -> None:
    arguments = parse(__doc__, table={"default": "3", "help": "table number, 3 … 7 (default: %(default)s)"})
    from benchmarks.compare import collect, table_text
    from solar_repro.plan import Plan
    from solar_repro.variants import PAPER

    if arguments.options.table not in ("3", "4", "5", "6", "7"):
        raise UserError(f"--table {arguments.options.table}: the ablations are Tables 3 to 7")
    table = int(arguments.options.table)
    plan = Plan(arguments.scale)
    names = tuple(variant.name for variant in PAPER.values() if table in variant.rows)
    with running(arguments, f"ablation table {table}") as runner:
        runner.all([plan.evaluation(name) for name in names])
        print(table_text(table, collect(plan, runner.tracker, names), arguments.scale.name))


if __name__ == "__main__":
    run_main(main)
