"""Synth. Math-Instruct and Synth. Math-Alignment (Sec. 3; MetaMath, Yu et al. 2023) from problems of MATH.

Three methods give the same kind of rows, in MetaMathQA's columns (`query`, `response`, `type`,
`original_question`): MetaMathQA's own `MATH_*` rows are taken, which stand for the paper's unpublished set; a
language model rephrases problems, and a row is kept if the answer stays the same; or rules rephrase them. No
problem comes from GSM8K, which H6 scores.
"""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from solar_repro.data.benchmark_texts import benchmark_texts
from solar_repro.data.locate import Location
from solar_repro.data.ngram_index import NgramIndex
from solar_repro.data.ngrams import hash_texts
from solar_repro.data.rephrase_by_model import Complete, generate
from solar_repro.data.rephrase_by_rule import in_steps, rephrase
from solar_repro.data.report import RowReport, drop
from solar_repro.data.row_batches import read_batches
from solar_repro.errors import UserError
from solar_repro.paper.data_sets import TEXT

Method = Literal["metamath", "generate", "rule"]
TextRow = dict[str, str]
"""A row of text columns, by the columns' names."""
METAMATH_COLUMNS = ("query", "response", "type", "original_question")


def math_problems(location: Location, split: str = "train", report: RowReport | None = None) -> list[TextRow]:
    """The problems of a split of MATH: `problem`, `solution` and `answer`, "" where one is missing.

    Rows without a problem are dropped, counted and named in the report.
    """
    rows: list[TextRow] = []
    for file in location.files(split):
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
    problems: Iterable[TextRow],
    *,
    metamath: Location | None = None,
    complete: Complete | None = None,
    gsm8k: Location | None = None,
    known: NgramIndex | None = None,
    seed: int = 0,
    samples: int = 1,
    temperature: float = 0.7,
) -> tuple[list[TextRow], RowReport]:
    """Rows in MetaMathQA's columns, and a report of what was asked, kept and dropped, by reason.

    The method `metamath` takes the rows of that set. `generate` asks `complete` (a server or a local model)
    for `samples` rephrasings of each problem, and `rule` makes `samples` of each problem that has a solution.

    What shares an n-gram with `known` is dropped: problems before they are rephrased, which would hide it,
    and rows. Raises UserError for a problem that is a question of `gsm8k`, for a method without what it
    needs, and where no row is made.
    """
    problems = list(problems)
    report: RowReport = {"method": method, "problems": len(problems), "dropped": {}}
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


def _metamath_rows(location: Location, report: RowReport) -> Iterator[TextRow]:
    """The rows of MetaMathQA that come from MATH."""
    for file in location.files("train"):
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


def _by_rule(problems: list[TextRow], seed: int, samples: int, report: RowReport) -> Iterator[TextRow]:
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


def _refuse_gsm8k(questions: list[str], gsm8k: Location | None, report: RowReport) -> None:
    """Raise UserError if one of the questions is of GSM8K; the report says whether they were compared."""
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


def overlap_counts(rows: list[TextRow], known: NgramIndex) -> dict[str, int]:
    """How many rows share an n-gram, in any of their texts, with each collection of `known`."""
    owners = _owners(rows, known)
    return {name: sum(int(found) >> place & 1 for found in owners) for place, name in enumerate(known.names)}


def _without_overlap(
    rows: list[TextRow], known: NgramIndex, report: RowReport, what: str
) -> tuple[list[TextRow], list[TextRow]]:
    """The rows that share no n-gram with `known`, and those that do, which the report counts."""
    owners = _owners(rows, known)
    for found in owners[owners > 0]:
        drop(report, f"{what}: {known.n}-gram of {' and '.join(known.owner_names(found))}")
    clean = [row for row, found in zip(rows, owners, strict=True) if not found]
    return clean, [row for row, found in zip(rows, owners, strict=True) if found]


def _owners(rows: list[TextRow], known: NgramIndex) -> np.ndarray:
    owners = np.zeros(len(rows), np.uint64)
    for name in rows[0] if rows else ():
        if name not in ("type", "answer"):
            owners |= known.owners(pa.array([row[name] for row in rows], pa.string()))
    return owners


def math_alignment_rows(
    rows: list[TextRow], problems: Iterable[TextRow], maximum: int | None, seed: int, report: RowReport
) -> list[TextRow]:
    """Join rephrased rows to the problems that they come from (Sec. 3, alignment tuning).

    `prompt` is the rephrased question, `chosen` its response and `rejected` the original solution. Rows
    without a problem or a solution are dropped and counted. At most `maximum` rows are sampled; None takes
    all.
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
    rows: list[TextRow],
    problems: Iterable[TextRow],
    *,
    maximum_instruct: int | None,
    maximum_alignment: int | None,
    seed: int,
    known: NgramIndex,
    report: RowReport,
) -> None:
    """Write `out/instruct` and `out/alignment` in hub layout.

    The report gets the number of their rows, and how many of these share an n-gram with each collection of
    `known`. Raises UserError where no row can be joined to a problem with a solution.
    """
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


def _write_hub_set(folder: Path, rows: list[TextRow]) -> None:
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: train-00000-of-00001.parquet\n---\n",
        encoding="utf-8",
    )


def sample(rows: list[Any], maximum: int | None, seed: int) -> list[Any]:
    """At most `maximum` rows, drawn with a seed and in their order; None takes all."""
    if maximum is None or len(rows) <= maximum:
        return rows
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), maximum))]
