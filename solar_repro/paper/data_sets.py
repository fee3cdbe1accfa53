"""The data sets of Table 1, the seeds of the synthetic math data (Sec. 3), and the task names of Table 8."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

MATH_SEEDS = "EleutherAI/hendrycks_math"
"""The MATH set, the only seed of the synthetic math data (Sec. 3)."""
FILTERED_TASKS = (
    "task228_arc_answer_generation_easy",
    "ai2_arc/ARC-Challenge:1.0.0",
    "ai2_arc/ARC-Easy:1.0.0",
    "task229_arc_answer_generation_hard",
    "hellaswag:1.1.0",
    "task1389_hellaswag_completion",
    "cot_gsm8k",
    "cot_gsm8k_ii",
    "drop:2.0.0",
    "winogrande:1.1.0",
)
"""FLAN task names removed from OpenOrca (Table 8)."""
ColumnKind = Literal["text", "list of {role, content}"]
"""What a column of rows holds."""
TEXT: ColumnKind = "text"
TURNS: ColumnKind = "list of {role, content}"


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One row of Table 1."""

    name: str
    title: str
    stage: Literal["instruction", "alignment"]
    """The tuning that it is for."""
    hub_id: str
    maximum_samples: int
    """The most samples that the paper used (Table 1, last column), its "K" read as thousands."""
    licence: str
    """As the hub's card of the set names it."""
    columns: Mapping[str, ColumnKind]
    """Columns that every row has to have."""
    optional_columns: Mapping[str, ColumnKind] = field(default_factory=dict)
    """Columns that are read where a row has them."""
    filtered_tasks: tuple[str, ...] = ()
    """FLAN tasks whose rows are left out (Table 8)."""
    is_made_from_math: bool = False
    """In-house in the paper. Stage `synth_math` makes it from MATH, or takes MetaMathQA (Sec. 4.1) for it."""


DATASETS: Mapping[str, DataSource] = MappingProxyType(
    {
        source.name: source
        for source in (
            DataSource(
                name="alpaca_gpt4",
                title="Alpaca-GPT4",
                stage="instruction",
                hub_id="vicgalle/alpaca-gpt4",
                maximum_samples=52_000,
                licence="cc-by-nc-4.0",
                columns={"instruction": TEXT, "output": TEXT},
                optional_columns={"input": TEXT},
            ),
            DataSource(
                name="openorca",
                title="OpenOrca",
                stage="instruction",
                hub_id="Open-Orca/OpenOrca",
                maximum_samples=100_000,
                licence="mit",
                columns={"system_prompt": TEXT, "question": TEXT, "response": TEXT},
                optional_columns={"id": TEXT, "task_name": TEXT},
                filtered_tasks=FILTERED_TASKS,
            ),
            DataSource(
                name="synth_math_instruct",
                title="Synth. Math-Instruct",
                stage="instruction",
                hub_id="meta-math/MetaMathQA",
                maximum_samples=52_000,
                licence="mit",
                columns={"query": TEXT, "response": TEXT, "type": TEXT},
                is_made_from_math=True,
            ),
            DataSource(
                name="orca_dpo_pairs",
                title="Orca DPO Pairs",
                stage="alignment",
                hub_id="Intel/orca_dpo_pairs",
                maximum_samples=12_900,
                licence="apache-2.0",
                columns={"question": TEXT, "chosen": TEXT, "rejected": TEXT},
                optional_columns={"system": TEXT},
            ),
            DataSource(
                name="ultrafeedback",
                title="Ultrafeedback Cleaned",
                stage="alignment",
                hub_id="allenai/ultrafeedback_binarized_cleaned",
                maximum_samples=60_800,
                licence="mit",
                columns={"chosen": TURNS, "rejected": TURNS},
                optional_columns={"source": TEXT},
            ),
            DataSource(
                name="synth_math_alignment",
                title="Synth. Math-Alignment",
                stage="alignment",
                hub_id="meta-math/MetaMathQA",
                maximum_samples=20_100,
                licence="mit",
                columns={"prompt": TEXT, "chosen": TEXT, "rejected": TEXT},
                is_made_from_math=True,
            ),
        )
    }
)
"""Name here → data set, in the order of Table 1."""
SYNTHETIC_MATH = frozenset(name for name, source in DATASETS.items() if source.is_made_from_math)
