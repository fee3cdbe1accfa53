"""Canonical rows as token ids: one BOS, one EOS, loss on the answer alone.

A row longer than `max_length` loses the left of its prompt, never the end of its answer. The prompt keeps at
least half of `max_length` (Zephyr keeps 512 of 1024 tokens), or all that it has; a row whose answer has no
room beside that is dropped and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from solar_repro.checkpoint.tokenizer import tokenizer_digest
from solar_repro.data.cache import arrow_rows, cache_key
from solar_repro.data.parallel import batches, in_order
from solar_repro.data.report import RowReport, add, drop
from solar_repro.data.sources import Rows
from solar_repro.errors import UserError
from solar_repro.terminal.progress import Progress

Batch = dict[str, list[Any]]
VERSION = 2
"""Raise it by one when rows come out otherwise than before: cached ones are then made again."""
BATCH_ROWS = 1024
"""Rows that are tokenised at once."""
TOO_LONG = "answer longer than its room"


def tokenise_instruction(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    num_proc: int = 1,
    cache_dir: Path | None = None,
) -> tuple[Dataset, RowReport]:
    """`input_ids` and `completion_mask` (1 on the answer and its EOS), one row per usable row of `rows`.

    The report holds `rows_in`, `dropped` and `examples` by reason, `kept`, `prompts_truncated`,
    `merged_boundaries`, `tokens`, `answer_tokens` and `longest`.
    """
    columns = {"input_ids": "int32", "completion_mask": "int8"}
    encoding = Encoding(_encode_instruction, tokenizer, max_length, columns)
    return _tokenise(rows, encoding, num_proc, cache_dir)


def tokenise_preferences(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    num_proc: int = 1,
    cache_dir: Path | None = None,
) -> tuple[Dataset, RowReport]:
    """`prompt_ids`, `chosen_ids`, `rejected_ids`, the columns of TRL's preference collator, and a report.

    The prompt is the same for both answers, cut so that the longer one fits. The report is that of
    `tokenise_instruction`.
    """
    columns = {"prompt_ids": "int32", "chosen_ids": "int32", "rejected_ids": "int32"}
    encoding = Encoding(_encode_preferences, tokenizer, max_length, columns)
    return _tokenise(rows, encoding, num_proc, cache_dir)


@dataclass(frozen=True)
class Encoding:
    """How a batch of canonical rows becomes columns of token ids."""

    encode: "Callable[[Encoding, Batch, RowReport], Iterator[list[list[int]]]]"
    """Yields the values of all columns for each usable row."""
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    """The most tokens of a prompt and an answer."""
    columns: dict[str, str]
    """The integer type of each column's lists, by the column's name."""


def _encode_instruction(how: Encoding, batch: Batch, report: RowReport) -> Iterator[list[list[int]]]:
    split = _split_rows(batch["row_id"], [batch["messages"]], how.tokenizer, report)
    for row_id, prompt, (answer,) in split:
        fitted = _fit(prompt, [answer], how.max_length, row_id, report)
        if fitted:
            prompt, (answer,) = fitted
            yield [prompt + answer, [0] * len(prompt) + [1] * len(answer)]


def _encode_preferences(how: Encoding, batch: Batch, report: RowReport) -> Iterator[list[list[int]]]:
    conversations = [
        [prompt + answer for prompt, answer in zip(batch["prompt"], batch[name], strict=True)]
        for name in ("chosen", "rejected")
    ]
    for row_id, prompt, answers in _split_rows(batch["row_id"], conversations, how.tokenizer, report):
        fitted = _fit(prompt, answers, how.max_length, row_id, report)
        if fitted:
            yield [fitted[0], *fitted[1]]


def _tokenised_part(dataset: Dataset, how: Encoding, part: slice) -> tuple[pa.Table, RowReport]:
    report = _empty_report()
    batch = dataset[part]
    encoded = list(how.encode(how, batch, report))
    report["rows_in"], report["kept"] = len(batch["row_id"]), len(encoded)
    return list_table(how.columns, list(zip(*encoded, strict=True)) or [[] for _ in how.columns]), report


def _tokenise(rows: Rows, how: Encoding, num_proc: int, cache_dir: Path | None) -> tuple[Dataset, RowReport]:
    key = cache_key(
        rows=rows.key,
        tokenizer=tokenizer_digest(how.tokenizer),
        max_length=how.max_length,
        columns=how.columns,
        version=VERSION,
    )
    _check_template(how.tokenizer)

    def tables(report: RowReport) -> Iterator[pa.Table]:
        report |= _empty_report()
        with Progress(f"{rows.report['set']}: tokenising", len(rows.dataset), "rows") as progress:
            parts = batches(len(rows.dataset), BATCH_ROWS)
            for table, part in in_order(partial(_tokenised_part, rows.dataset, how), parts, num_proc):
                add(report, part)
                yield table
                progress.advance(part["rows_in"])

    tokenised, report = arrow_rows(key, tables, cache_dir)
    if not len(tokenised):
        what, advice = "can be used", "correct its rows or use another chat template"
        if TOO_LONG in report["dropped"]:
            what, advice = f"fits into max_length {how.max_length}", "raise max_length"
        raise UserError(
            f"data set {rows.report['set']}: no row {what} (dropped: {report['dropped']}); {advice}"
        )
    return tokenised, report


def _empty_report() -> RowReport:
    counts = ("rows_in", "kept", "prompts_truncated", "merged_boundaries")
    counts += ("tokens", "answer_tokens", "longest")
    return dict.fromkeys(counts, 0) | {"dropped": {}, "examples": {}}


def list_table(columns: dict[str, str], values: Sequence[Sequence[Sequence[int]]]) -> pa.Table:
    """A table of columns of lists (name → integer type), from one sequence of lists per column."""
    types = [pa.list_(pa.type_for_alias(kind)) for kind in columns.values()]
    arrays = [pa.array(lists, type) for lists, type in zip(values, types, strict=True)]
    return pa.table(arrays, names=list(columns))


def _check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError unless the training text is the server's prompt, then the answer, then EOS."""
    if tokenizer.chat_template is None:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path}: has no chat template; call set_chat_template first"
        )
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    if whole != prompt + "answer" + tokenizer.eos_token or not prompt.startswith(tokenizer.bos_token):
        raise UserError(
            f"tokenizer {tokenizer.name_or_path}: its chat template does not render BOS, prompt, answer, EOS;"
            " use the template `solar` or `alpaca`"
        )


def _split_rows(
    row_ids: Sequence[str],
    conversations: Sequence[Sequence[list[dict[str, str]]]],
    tokenizer: PreTrainedTokenizerBase,
    report: RowReport,
) -> Iterator[tuple[str, list[int], list[list[int]]]]:
    """Yield each usable row's id, prompt tokens and answers' tokens.

    `conversations` holds, for each of a row's answers, the turns of all rows.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    begins, ends = 1, len(conversations)
    if bos == eos:  # as of SmolLM2 and GPT-2
        begins = ends = begins + ends
    encoded = []
    for turns in conversations:
        texts = tokenizer.apply_chat_template(turns, tokenize=False)
        encodings = tokenizer(texts, add_special_tokens=False, return_attention_mask=False).encodings
        encoded.append((texts, encodings, [row[-1]["content"] for row in turns]))
    for number, row_id in enumerate(row_ids):
        prompts, answers = [], []
        for texts, encodings, contents in encoded:
            end = len(texts[number]) - len(contents[number]) - len(tokenizer.eos_token)
            ids, first = encodings[number].ids, encodings[number].char_to_token(end)
            if first is None or encodings[number].token_to_chars(first)[0] != end:
                # A token reaches over the end of the prompt: what a server would send comes first.
                report["merged_boundaries"] += 1
                before, after = (
                    tokenizer(part, add_special_tokens=False)["input_ids"]
                    for part in (texts[number][:end], texts[number][end:])
                )
                ids, first = before + after, len(before)
            prompts.append(ids[:first])
            answers.append(ids[first:])
        whole = prompts[0] + [token for answer in answers for token in answer]
        if whole.count(bos) != begins or whole.count(eos) != ends:
            drop(report, "BOS or EOS written out in its text", row_id)
        elif any(prompt != prompts[0] for prompt in prompts):
            drop(report, "prompt tokenised differently before each answer", row_id)
        else:
            yield row_id, prompts[0], answers


def _fit(
    prompt: list[int],
    answers: list[list[int]],
    max_length: int,
    row_id: str,
    report: RowReport,
) -> tuple[list[int], list[list[int]]] | None:
    """Prompt and answers within `max_length` tokens, counted in the report; None for a dropped row."""
    room = max_length - min(len(prompt), max_length // 2)
    if any(len(answer) > room for answer in answers):
        drop(report, TOO_LONG, row_id)
        return None
    longest = max(map(len, answers))
    if len(prompt) + longest > max_length:
        report["prompts_truncated"] += 1
        prompt = prompt[:1] + prompt[len(prompt) - (max_length - longest) + 1 :]
    answer_tokens = sum(map(len, answers))
    report["answer_tokens"] += answer_tokens
    report["tokens"] += len(prompt) * len(answers) + answer_tokens  # each answer stands behind the prompt
    report["longest"] = max(report["longest"], len(prompt) + longest)
    return prompt, answers
