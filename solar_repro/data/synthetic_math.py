"""Synth. Math-Instruct and Synth. Math-Alignment (Sec. 3; Yu et al. 2023, MetaMath) from MATH seeds.

Three ways to the same rows, in MetaMathQA's columns (`query`, `response`, `type`, `original_question`): the
paper's own substitute, MetaMathQA's `MATH_*` rows; generation by a language model, kept where the answer
stays the same; rephrasing by rule. No seed comes from GSM8K, which H6 scores.
"""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from solar_repro.data.benchmark_texts import benchmark_texts
from solar_repro.data.files import TEXT, data_files, read_batches
from solar_repro.data.locate import Location
from solar_repro.data.ngram_index import NgramIndex
from solar_repro.data.ngrams import hash_texts
from solar_repro.data.rephrase import in_steps, rephrase
from solar_repro.data.report import Report, drop
from solar_repro.data.text_generator import Complete, generate
from solar_repro.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Method = Literal["metamath", "generate", "rule"]
Row = dict[str, str]
METAMATH_COLUMNS = ("query", "response", "type", "original_question")


def math_problems(location: Location, split: str = "train", report: Report | None = None) -> list[Row]:
    """MATH problems of a split, all subjects: `problem`, `solution` and `answer`, "" where there is none.

    Rows without a problem are dropped, counted and named in the report.
    """
    rows: list[Row] = []
    for file in data_files(location.folder, split):
        first = 0
        for batch in read_batches(file, {"problem": TEXT, "solution": TEXT}, {"answer": TEXT}):
            for number, row in enumerate(batch.table.to_pylist()):
                if row["problem"]:
                    rows.append({name: text or "" for name, text in row.items()})
                elif report is not None:
                    reason = batch.faults.get(number, "no problem")
                    drop(report, reason, f"{file.parent.name}/{file.name} row {first + number}")
            first += batch.table.num_rows
    return rows


def synthesise(
    method: Method,
    problems: Iterable[Row],
    *,
    metamath: Location | None = None,
    complete: Complete | None = None,
    gsm8k: Location | None = None,
    known: NgramIndex | None = None,
    seed: int = 0,
    samples: int = 1,
    temperature: float = 0.7,
) -> tuple[list[Row], Report]:
    """Rows in MetaMathQA's columns, and a report of what was asked, kept and dropped, by reason.

    `metamath` takes the rows of that set; `generate` asks `complete` (a server or a local model) for
    `samples` rephrasings of each problem; `rule` makes `samples` of each problem that has a solution. With
    `known` what shares an n-gram with it is dropped: seeds before they are rephrased, which would hide it,
    and rows. A seed that is a GSM8K question (compared with all of them where `gsm8k` is given): UserError.
    """
    problems = list(problems)
    report: Report = {"method": method, "problems": len(problems), "dropped": {}}
    if known is not None:
        problems, tainted = _without_overlap(problems, known, report, "seed")
    if method == "metamath":
        if metamath is None:
            raise UserError("synthetic mathematics: method 'metamath' needs the set meta-math/MetaMathQA")
        rows = list(_metamath_rows(metamath, report))
    elif method == "generate":
        if complete is None:
            raise UserError("synthetic mathematics: method 'generate' needs a server or a model to ask")
        _refuse_gsm8k([row["problem"] for row in problems], gsm8k, report)
        settings = {"seed": seed, "samples": samples, "temperature": temperature}
        rows = list(generate(problems, complete, **settings, report=report))
    else:
        rows = list(_by_rule(problems, seed, samples, report))
    if known is not None:
        seeds = {row["problem"].strip() for row in tainted}
        rows = [row for row in rows if row["original_question"].strip() not in seeds]
        rows, _ = _without_overlap(rows, known, report, "row")
    if not rows:
        raise UserError(
            f"synthetic mathematics by {method!r}: no row was made from {len(problems)} problems (dropped: "
            f"{report['dropped']}); use a split with solutions (data.math_seed_split) or another method"
        )
    _refuse_gsm8k([row["original_question"] for row in rows], gsm8k, report)
    report["rows"] = len(rows)
    return rows, report


def _metamath_rows(location: Location, report: Report) -> Iterator[Row]:
    for file in data_files(location.folder, "train"):
        first = 0
        for batch in read_batches(file, dict.fromkeys(METAMATH_COLUMNS, TEXT)):
            for number, row in enumerate(batch.table.to_pylist(), first):
                if not all(row.values()):
                    reason = batch.faults.get(number - first, "null or empty value")
                    drop(report, reason, f"{file.name} row {number}")
                elif row["type"].startswith("MATH_"):
                    yield row
                else:
                    drop(report, "no MATH seed", f"{file.name} row {number}")
            first += batch.table.num_rows


def _by_rule(problems: list[Row], seed: int, samples: int, report: Report) -> Iterator[Row]:
    for number, row in enumerate(problems):
        if not row["solution"].strip():
            drop(report, "no solution")
            continue
        response = in_steps(row["solution"])
        if response is None:
            drop(report, "no final answer in the solution")
            continue
        rng = random.Random(f"{seed} {number}")
        for query in dict.fromkeys(rephrase(row["problem"], rng) for _ in range(samples)):
            yield {
                "query": query,
                "response": response,
                "type": "MATH_Rephrased",
                "original_question": row["problem"],
            }


def _refuse_gsm8k(questions: list[str], gsm8k: Location | None, report: Report) -> None:
    import numpy as np
    import pyarrow as pa

    report["gsm8k_compared"] = gsm8k is not None
    if gsm8k is None:
        return
    known = np.concatenate([hash_texts(texts) for texts in benchmark_texts("GSM8K", gsm8k, test_only=False)])
    hit = np.flatnonzero(np.isin(hash_texts(pa.array(questions, pa.string())), known))
    if len(hit):
        raise UserError(
            f"synthetic mathematics: {len(hit)} seed(s) are GSM8K questions, which H6 scores "
            f"(first: {questions[hit[0]][:80]!r}); take seeds from MATH alone"
        )


def overlap_counts(rows: list[Row], known: NgramIndex) -> dict[str, int]:
    """For each collection of `known` how many rows share an n-gram with it, in any of their texts."""
    owners = _owners(rows, known)
    return {name: sum(int(found) >> place & 1 for found in owners) for place, name in enumerate(known.names)}


def _without_overlap(
    rows: list[Row], known: NgramIndex, report: Report, what: str
) -> tuple[list[Row], list[Row]]:
    """Rows that share no n-gram with `known`, and those that do, counted in the report."""
    owners = _owners(rows, known)
    for found in owners[owners > 0]:
        drop(report, f"{what}: {known.n}-gram of {' and '.join(known.owner_names(found))}")
    clean = [row for row, found in zip(rows, owners, strict=True) if not found]
    return clean, [row for row, found in zip(rows, owners, strict=True) if found]


def _owners(rows: list[Row], known: NgramIndex) -> "np.ndarray":
    import numpy as np
    import pyarrow as pa

    owners = np.zeros(len(rows), np.uint64)
    for name in rows[0] if rows else ():
        if name not in ("type", "answer"):
            owners |= known.owners(pa.array([row[name] for row in rows], pa.string()))
    return owners


def math_alignment_rows(
    rows: list[Row], problems: Iterable[Row], maximum: int | None, seed: int, report: Report
) -> list[Row]:
    """Rephrased rows joined to the problem they come from: `prompt` = query, `chosen` = its response,
    `rejected` = the original solution (Sec. 3, alignment tuning).

    Rows without a problem or a solution are dropped and counted in the report.
    """
    solutions = {row["problem"].strip(): row["solution"] for row in problems}
    pairs = []
    for row in rows:
        if row["type"] != "MATH_Rephrased":
            drop(report, "alignment: not rephrased")
        elif row["original_question"].strip() not in solutions:
            drop(report, "alignment: original question not in MATH")
        elif not (solution := solutions[row["original_question"].strip()]).strip():
            drop(report, "alignment: no original solution")
        else:
            pairs.append({"prompt": row["query"], "chosen": row["response"], "rejected": solution})
    return sample(pairs, maximum, seed)


def write_math_sets(
    out: Path,
    rows: list[Row],
    problems: Iterable[Row],
    *,
    maximum_instruct: int | None,
    maximum_alignment: int | None,
    seed: int,
    known: NgramIndex,
    report: Report,
) -> None:
    """Write `out/instruct` and `out/alignment` in hub layout; the report gets their rows, and how many of
    them share an n-gram with which collection of `known`."""
    instruct = sample(rows, maximum_instruct, seed)
    alignment = math_alignment_rows(rows, problems, maximum_alignment, seed, report)
    if not alignment:
        raise UserError(
            f"synthetic mathematics: no row could be joined to a MATH problem with a solution "
            f"({report['dropped']}); give EleutherAI/hendrycks_math with its solutions"
        )
    for name, kept in (("instruct", instruct), ("alignment", alignment)):
        _write_hub_set(out / name, kept)
        report[name] = len(kept)
        report[f"overlap/{name}"] = overlap_counts(kept, known)


def _write_hub_set(folder: Path, rows: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: train-00000-of-00001.parquet\n---\n",
        encoding="utf-8",
    )


def sample(rows: list[Any], maximum: int | None, seed: int) -> list[Any]:
    """A seeded sample of at most `maximum` rows, in their order."""
    if maximum is None or len(rows) <= maximum:
        return rows
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), maximum))]
