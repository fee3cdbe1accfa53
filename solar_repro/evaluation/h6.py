"""H6, the mean of six benchmarks as the Open LLM Leaderboard (v1) ran them: build tasks, score models."""

from solar_repro.evaluation.columns import COLUMN_NAMES, COLUMNS, LEADERBOARD_GSM8K_STOP, Column
from solar_repro.evaluation.evaluate import evaluate_h6
from solar_repro.evaluation.scores import ColumnScore, Scores, read_scores
from solar_repro.evaluation.tasks import H6Tasks, build_tasks

__all__ = [
    "COLUMNS",
    "COLUMN_NAMES",
    "LEADERBOARD_GSM8K_STOP",
    "Column",
    "ColumnScore",
    "H6Tasks",
    "Scores",
    "build_tasks",
    "evaluate_h6",
    "read_scores",
]
