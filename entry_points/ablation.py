"""One of the paper's tables: make its variants, score them, print it beside the paper's.

Table 2 scores the released checkpoints instead, the cheapest reproduction that one GPU can do.
"""

from pathlib import Path

from entry_points.command import Arguments, parse, run_main, running
from solar_repro.errors import UserError


def main() -> None:
    arguments = parse(
        __doc__,
        table={"default": "3", "help": "table number, 2 … 7 (default: %(default)s)"},
        rows={"help": "Table 2: rows to score, separated by commas (default: all that fit the device)"},
        dry_run={
            "default": "false",
            "choices": ["true", "false"],
            "help": "Table 2: print what would be downloaded and the memory needed, and do nothing",
        },
    )
    if arguments.options.table not in ("2", "3", "4", "5", "6", "7"):
        raise UserError(f"--table {arguments.options.table}: the ablations are Tables 3 to 7, and 2")
    if arguments.options.table == "2":
        table_2(arguments)
    else:
        ablation(arguments, int(arguments.options.table))


def ablation(arguments: Arguments, table: int) -> None:
    from benchmarks.compare import collect, table_text
    from solar_repro.plan import Plan
    from solar_repro.variants import PAPER

    plan = Plan(arguments.scale)
    names = tuple(variant.name for variant in PAPER.values() if table in variant.rows)
    with running(arguments, f"ablation table {table}") as runner:
        runner.all([plan.evaluation(name) for name in names])
        print(table_text(table, collect(plan, runner.tracker, names), arguments.scale.name))


def table_2(arguments: Arguments) -> None:
    from solar_repro.evaluation.released import accepted, candidates, describe, device_memory
    from solar_repro.plan import Plan
    from solar_repro.scales import EMBEDDED

    scale, rows = arguments.scale, arguments.options.rows
    if scale.data.mirror == EMBEDDED:
        raise UserError(
            f"scale {scale.name}: its benchmarks are the embedded world's; score released checkpoints on the "
            "real ones, -P scale=stories with -P data.mirror=DIR, or -P data.mirror=null for the hub's"
        )
    plan = Plan(scale)
    memory = device_memory()
    mirror = Path(scale.data.mirror) if scale.data.mirror else None
    found = candidates(rows, mirror, scale.evaluate.batch_tokens, memory)
    if arguments.options.dry_run == "true":
        print(describe(found, memory))
        return
    scored = accepted(found, named=bool(rows))
    for candidate in found:
        if candidate.refusal:
            print(f"row {candidate.released.row!r} is left out: {candidate.refusal}")
    from benchmarks.compare import released_runs, table_text

    steps = {
        candidate.released.row: plan.evaluation_of(candidate.released.hub_id, candidate.released.dtype)
        for candidate in scored
    }
    with running(arguments, "ablation table 2") as runner:
        runner.all(list(steps.values()))
        print(table_text(2, released_runs(steps, runner.tracker), scale.name, {row: row for row in steps}))


if __name__ == "__main__":
    run_main(main)
