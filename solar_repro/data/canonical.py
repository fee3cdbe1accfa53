"""The columns of each set of Table 1, made into plain text columns and from those into canonical rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from solar_repro.data.batch import Batch


@dataclass(frozen=True)
class FlatRows:
    """A batch as text columns: `row_id`, `system`, `user` and `answer`, or `chosen` and `rejected`."""

    columns: dict[str, pa.Array]
    reasons: list[str | None]
    """For each row why it cannot be used; None for a usable row."""
    task_names: pa.Array | None = None
    """FLAN's task of each row; None where the set has none."""


def flatten(name: str, batch: Batch, first_row: int) -> FlatRows:
    """The text columns of a batch that was read from set `name`; its first row has the number `first_row`."""
    table = {key: batch.table.column(key).combine_chunks() for key in batch.table.column_names}
    size = batch.table.num_rows
    nothing = pa.array([""] * size, pa.string())
    numbers = pa.array([str(number) for number in range(first_row, first_row + size)])
    flat = {"row_id": numbers, "system": nothing}
    extra: list[tuple[pa.Array, str]] = []
    if name == "alpaca_gpt4":
        instruction, context = table["instruction"], pc.fill_null(table["input"], "")
        with_context = pc.binary_join_element_wise(instruction, context, "\n\n")
        flat["user"] = pc.if_else(_blank(context), instruction, with_context)
        flat["answer"] = table["output"]
    elif name == "openorca":
        flat["row_id"] = pc.coalesce(table["id"], numbers)
        flat["system"] = pc.fill_null(table["system_prompt"], "")
        flat["user"], flat["answer"] = table["question"], table["response"]
    elif name == "synth_math_instruct":
        flat["user"], flat["answer"] = table["query"], table["response"]
        extra.append((pc.invert(pc.starts_with(table["type"], "MATH_")), "no MATH seed"))
    elif name == "orca_dpo_pairs":
        flat["system"] = pc.fill_null(table["system"], "")
        flat["user"], flat["chosen"], flat["rejected"] = table["question"], table["chosen"], table["rejected"]
    elif name == "ultrafeedback":
        system, user, flat["chosen"], strange = _single_turn(table["chosen"])
        other_system, other_user, flat["rejected"], strange_too = _single_turn(table["rejected"])
        flat["system"], flat["user"] = system, user
        extra.append((pc.or_(strange, strange_too), "not one user and one assistant turn"))
        same = pc.and_(pc.equal(system, other_system), pc.equal(user, other_user))
        extra.append((pc.invert(same), "chosen and rejected answer different prompts"))
        extra.append((pc.match_substring(table["source"], "truthful", ignore_case=True), "from TruthfulQA"))
    else:
        flat["user"], flat["chosen"], flat["rejected"] = table["prompt"], table["chosen"], table["rejected"]
    reasons = _reasons(batch.faults, flat, extra)
    return FlatRows(flat, reasons, table.get("task_name"))


def _reasons(
    faults: dict[int, str], flat: dict[str, pa.Array], extra: Sequence[tuple[pa.Array, str]]
) -> list[str | None]:
    """For each row the first reason that holds: damaged, null, empty, then the set's own reasons."""

    reasons: list[str | None] = [None] * len(flat["row_id"])
    for number, fault in faults.items():
        reasons[number] = fault
    tests = []
    texts = [name for name in ("user", "answer", "chosen", "rejected") if name in flat]
    tests += [(pc.is_null(flat[name]), f"null {name}") for name in texts]
    tests += [(_blank(flat[name]), f"empty {name}") for name in texts]
    tests += extra
    if "chosen" in flat:
        trimmed = [pc.utf8_trim_whitespace(flat[name]) for name in ("chosen", "rejected")]
        tests.append((pc.equal(*trimmed), "identical pair"))
    for test, reason in tests:
        for number in pc.indices_nonzero(pc.fill_null(test, False)).to_pylist():
            if reasons[number] is None:
                reasons[number] = reason
    return reasons


def _blank(texts: pa.Array) -> pa.Array:
    """Which texts are white space alone."""
    return pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0)


def _single_turn(turns: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array]:
    """System ("" where there is none), user and assistant texts, and a mask of the rows with other turns."""
    flat = pc.list_flatten(turns)
    roles, contents = pc.struct_field(flat, "role"), pc.struct_field(flat, "content")
    lengths = pc.fill_null(pc.list_value_length(turns), 0).to_numpy()
    ends = np.cumsum(lengths)

    def at(values: pa.Array, back: int) -> pa.Array:
        inside = lengths >= back
        return pc.take(values, pa.array(np.where(inside, ends - back, 0), mask=~inside))

    def is_role(back: int, role: str) -> np.ndarray:
        return pc.fill_null(pc.equal(at(roles, back), role), False).to_numpy(zero_copy_only=False)

    good = is_role(1, "assistant") & is_role(2, "user")
    good &= (lengths == 2) | ((lengths == 3) & is_role(3, "system"))
    system = pc.if_else(pa.array(lengths == 3), at(contents, 3), "")
    return pc.fill_null(system, ""), at(contents, 2), at(contents, 1), pa.array(~good)


def canonical_table(flat: FlatRows, chosen: np.ndarray) -> pa.Table:
    """The chosen rows (a mask) as `row_id`, `messages`, or `row_id`, `prompt`, `chosen`, `rejected`."""
    kept = {name: pc.filter(texts, pa.array(chosen)) for name, texts in flat.columns.items()}
    prompt = [("system", kept["system"]), ("user", kept["user"])]
    if "answer" in kept:
        return pa.table(
            {"row_id": kept["row_id"], "messages": _messages([*prompt, ("assistant", kept["answer"])])}
        )
    return pa.table(
        {
            "row_id": kept["row_id"],
            "prompt": _messages(prompt),
            "chosen": _messages([("assistant", kept["chosen"])]),
            "rejected": _messages([("assistant", kept["rejected"])]),
        }
    )


def _messages(turns: Sequence[tuple[str, pa.Array]]) -> pa.Array:
    """Each row's turns as a list of {role, content}, without a blank system turn."""
    size = len(turns[0][1])
    present = np.ones((size, len(turns)), bool)
    for number, (role, texts) in enumerate(turns):
        if role == "system":
            present[:, number] = ~_blank(texts).to_numpy(zero_copy_only=False)
    # Row r's turn t lies at t·size + r in the joined columns.
    order = np.arange(len(turns))[None, :] * size + np.arange(size)[:, None]
    places = order[present]
    contents = pc.take(pa.concat_arrays([texts.cast(pa.string()) for _, texts in turns]), pa.array(places))
    roles = pc.take(pa.array([role for role, _ in turns]), pa.array(places // max(size, 1)))
    offsets = np.concatenate([[0], np.cumsum(present.sum(1))]).astype(np.int32)
    struct = pa.StructArray.from_arrays([roles, contents], ["role", "content"])
    return pa.ListArray.from_arrays(pa.array(offsets), struct)
