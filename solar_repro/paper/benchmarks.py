"""The six benchmarks of H6, as the Open LLM Leaderboard (v1) ran them (paper Sec. 4.2, Table 2)."""

from dataclasses import dataclass

FEWSHOT_SEED = 1234  # the harness's own default; its few-shot examples are drawn with it
LEADERBOARD_GSM8K_STOP = (":", "Question:", "Question")  # the harness at b281b09, which the leaderboard ran


@dataclass(frozen=True)
class Column:
    """One column of the paper's tables: which harness task, with how many shots, scored by which metric."""

    name: str
    task: str
    """Task name in lm-evaluation-harness; for MMLU its group, whose members are `mmlu_<subject>`."""
    shots: int
    metric: str
    """`<metric>,<filter>` as the harness names it."""
    hub_id: str
    config: str | None
    """Configuration of the data set; None where it has one alone, and for MMLU, where each subject is one."""
    question: str
    """The field of an item that holds its question."""
    generates: bool = False


COLUMNS = (
    Column("ARC", "arc_challenge", 25, "acc_norm,none", "allenai/ai2_arc", "ARC-Challenge", "question"),
    Column("HellaSwag", "hellaswag", 10, "acc_norm,none", "Rowan/hellaswag", None, "query"),
    Column("MMLU", "mmlu", 5, "acc,none", "cais/mmlu", None, "question"),
    Column(
        "TruthfulQA", "truthfulqa_mc2", 0, "acc,none", "truthfulqa/truthful_qa", "multiple_choice", "question"
    ),
    Column("Winogrande", "winogrande", 5, "acc,none", "allenai/winogrande", "winogrande_xl", "sentence"),
    Column(
        "GSM8K", "gsm8k", 5, "exact_match,strict-match", "openai/gsm8k", "main", "question", generates=True
    ),
)
COLUMN_NAMES = tuple(column.name for column in COLUMNS)
FLEXIBLE = "exact_match,flexible-extract"
"""GSM8K's second metric: the last number of the answer, whatever its form. Logged, no part of H6."""


def column_named(name: str) -> Column:
    """The column with this name; KeyError if there is none."""
    return {column.name: column for column in COLUMNS}[name]
