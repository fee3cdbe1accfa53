"""What every result's folder holds beside the result itself, and how a stage logs metrics."""

from collections.abc import Callable

NOTES = "solar"
"""Subfolder of every result with what belongs to the run: metrics, data reports, pictures."""

METRICS = f"{NOTES}/metrics.jsonl"
"""A line for each metric of the run."""

CARDS = f"{NOTES}/data"
"""Subfolder of a training run with a card of every set it was trained on."""

Log = Callable[..., None]
"""`log(metrics, step)`: metrics by name, for a step."""
