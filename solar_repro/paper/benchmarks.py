"""The six benchmarks of H6, as the Open LLM Leaderboard (v1) ran them (paper Sec. 4.2, Table 2), and DROP.

A new benchmark of H6 is one more entry here, and its name in `H6Name`. Scales, prompts, costs,
decontamination, the contamination test and the report read this table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

FEWSHOT_SEED = 1234  # the harness's own default; its few-shot examples are drawn with it
LEADERBOARD_GSM8K_STOP = (":", "Question:", "Question")  # the harness at b281b09, which the leaderboard ran
FLEXIBLE = "exact_match,flexible-extract"
"""GSM8K's second metric: the last number of the answer, whatever its form. It is logged; H6 leaves it out."""
H6Name = Literal["ARC", "HellaSwag", "MMLU", "TruthfulQA", "Winogrande", "GSM8K"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set whose questions training rows are compared with."""

    name: str
    """As the paper's tables name it."""
    hub_id: str
    configs: tuple[str, ...]
    """Configurations whose questions are compared."""
    scored_split: str
    splits: tuple[str, ...]
    """All splits whose questions are compared, where the data set has them."""
    asked: tuple[str, ...]
    """The columns that make up an item's question; their joined text is compared."""


@dataclass(frozen=True, kw_only=True)
class H6Benchmark(Benchmark):
    """One of the six: which task of lm-evaluation-harness, with how many shots, scored by which metric."""

    task: str
    """Task name in the harness; for MMLU its group, whose members are `mmlu_<subject>`."""
    folder: str
    """Folder of the harness's tasks that defines it. Only these folders are read, which saves seconds."""
    shots: int
    metric: str
    """`<metric>,<filter>` as the harness names it."""
    config: str | None
    """Configuration that is scored; None where there is only one, and for MMLU: each subject is one."""
    question: str
    """The field of an item, as the harness has it, that holds its question."""
    unseen_split: str | None
    """A split of the same kind that is not scored, for the contamination test; None where there is none."""
    answered: Callable[[Mapping[str, Any]], str]
    """A row as one text: question, a space, the right answer."""
    items: int
    """Items of the scored split."""
    prompt_characters: int
    """Characters of an item's prompt with all its choices: the mean of 60 items (MMLU: 4 of each subject)."""
    generates: bool = False
    """Whether the model writes its answer, and does not choose one."""


H6_BENCHMARKS = (
    H6Benchmark(
        name="ARC",
        hub_id="allenai/ai2_arc",
        configs=("ARC-Challenge", "ARC-Easy"),
        scored_split="test",
        splits=("train", "validation", "test"),
        asked=("question",),
        task="arc_challenge",
        folder="arc",
        shots=25,
        metric="acc_norm,none",
        config="ARC-Challenge",
        question="question",
        unseen_split="train",
        answered=lambda row: (
            f"{row['question']} {row['choices']['text'][row['choices']['label'].index(row['answerKey'])]}"
        ),
        items=1172,
        prompt_characters=4662,
    ),
    H6Benchmark(
        name="HellaSwag",
        hub_id="Rowan/hellaswag",
        configs=("default",),
        scored_split="validation",
        splits=("train", "validation", "test"),
        asked=("ctx",),
        task="hellaswag",
        folder="hellaswag",
        shots=10,
        metric="acc_norm,none",
        config=None,
        question="query",
        unseen_split="train",
        answered=lambda row: f"{row['ctx']} {row['endings'][int(row['label'])]}",
        items=10042,
        prompt_characters=4370,
    ),
    H6Benchmark(
        name="MMLU",
        hub_id="cais/mmlu",
        configs=("all",),
        scored_split="test",
        splits=("dev", "validation", "test"),
        asked=("question",),
        task="mmlu",
        folder="mmlu/default",
        shots=5,
        metric="acc,none",
        config=None,
        question="question",
        unseen_split="validation",
        answered=lambda row: f"{row['question']} {row['choices'][row['answer']]}",
        items=14042,
        prompt_characters=2939,
    ),
    H6Benchmark(
        name="TruthfulQA",
        hub_id="truthfulqa/truthful_qa",
        configs=("multiple_choice",),
        scored_split="validation",
        splits=("validation",),
        asked=("question",),
        task="truthfulqa_mc2",
        folder="truthfulqa",
        shots=0,
        metric="acc,none",
        config="multiple_choice",
        question="question",
        unseen_split=None,
        answered=lambda row: (
            f"{row['question']} {row['mc1_targets']['choices'][row['mc1_targets']['labels'].index(1)]}"
        ),
        items=817,
        prompt_characters=1029,
    ),
    H6Benchmark(
        name="Winogrande",
        hub_id="allenai/winogrande",
        configs=("winogrande_xl",),
        scored_split="validation",
        splits=("train", "validation", "test"),
        asked=("sentence", "option1", "option2"),
        task="winogrande",
        folder="winogrande",
        shots=5,
        metric="acc,none",
        config="winogrande_xl",
        question="sentence",
        unseen_split="train",
        answered=lambda row: row["sentence"].replace("_", row[f"option{row['answer']}"]),
        items=1267,
        prompt_characters=1281,
    ),
    H6Benchmark(
        name="GSM8K",
        hub_id="openai/gsm8k",
        configs=("main",),
        scored_split="test",
        splits=("train", "test"),
        asked=("question",),
        task="gsm8k",
        folder="gsm8k",
        shots=5,
        metric="exact_match,strict-match",
        config="main",
        question="question",
        unseen_split="train",
        answered=lambda row: f"{row['question']} {row['answer']}",
        items=1319,
        prompt_characters=3041,
        generates=True,
    ),
)
"""In the order of the paper's columns."""
H6_NAMES = tuple(benchmark.name for benchmark in H6_BENCHMARKS)
DROP = Benchmark(
    name="DROP",
    hub_id="ucinlp/drop",
    configs=("default",),
    scored_split="validation",
    splits=("train", "validation"),
    asked=("passage", "question"),
)
"""Table 8 filters its rows too, though H6 does not score it."""
BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {benchmark.name: benchmark for benchmark in (*H6_BENCHMARKS, DROP)}
)
TABLE_8_BENCHMARKS = ("ARC", "HellaSwag", "Winogrande", "GSM8K", "DROP")
"""Those whose tasks Table 8 names."""


def h6_benchmark(name: str) -> H6Benchmark:
    """The benchmark with this name; KeyError if H6 has none."""
    return {benchmark.name: benchmark for benchmark in H6_BENCHMARKS}[name]
