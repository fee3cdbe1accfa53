"""What the folder of every result holds besides the result, and how a stage logs metrics."""

from collections.abc import Callable

NOTES = "solar"
"""Subfolder of every result with what belongs to its run: metrics, data reports, pictures."""
METRICS = f"{NOTES}/metrics.jsonl"
"""File with a line for each metric of the run."""
CARDS = f"{NOTES}/data"
"""Subfolder of a training run with a card for each data set it was trained on."""
Log = Callable[..., None]
"""`log(metrics, step)` logs values by metric name for a step."""
