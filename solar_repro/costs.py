"""The dry run: what a plan would do, before anything is done."""

from pathlib import Path
from typing import Any

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import parameters_of
from solar_repro.plan import Plan
from solar_repro.stages.upscale import variant_map
from solar_repro.step import Step

BYTES_PER_PARAMETER = 4
"""Small scales keep float32 weights."""


def describe(plan: Plan, store: Path) -> str:
    """Every step of `main`, a line each: finished in the store or not, parameters, training tokens, disk."""
    lines = [f"{'step':<28} {'stage':<18} {'state':<9} {'parameters':>14} {'tokens':>14} {'disk':>10}"]
    steps = plan.main()
    missing_tokens = missing_disk = 0
    for step in steps:
        finished = (store / step.folder / "manifest.json").is_file()
        parameters = _parameters(step) if step.makes_model else None
        tokens, disk = _tokens(step), (parameters or 0) * BYTES_PER_PARAMETER
        at_most = "≤ " if step.stage in ("sft", "dpo") else ""
        if not finished:
            missing_tokens += tokens
            missing_disk += disk
        lines.append(
            f"{step.label:<28} {step.stage:<18} {'finished' if finished else 'to do':<9} "
            f"{_thousands(parameters):>14} {at_most + _thousands(tokens):>14} {_megabytes(disk):>10}"
        )
    lines.append(
        f"{len(steps)} steps; to do: at most {missing_tokens:,} training tokens, "
        f"{_megabytes(missing_disk)} of checkpoints in {store}"
    )
    return "\n".join(lines)


def _config(step: Step) -> dict[str, Any] | None:
    """Config of the checkpoint that a model step will make; None where it is not known here."""
    if step.stage == "base":
        training = step.settings.get("base")
        if training is not None:
            return {
                "model_type": "llama",
                "hidden_size": training.hidden_size,
                "intermediate_size": training.intermediate_size,
                "vocab_size": training.vocab_size,
                "num_hidden_layers": training.layers,
                "num_attention_heads": training.heads,
                "num_key_value_heads": training.key_value_heads,
                "tie_word_embeddings": True,
            }
        folder = Path(step.places["model"])
        return open_checkpoint(folder).config if folder.is_dir() else None
    config = _config(next(iter(step.inputs.values())))
    if config is None or step.stage != "upscale":
        return config
    chosen = variant_map(step.settings["layer_map"], config["num_hidden_layers"], step.settings.get("m"))
    return {**config, "num_hidden_layers": len(chosen.layers)}


def _parameters(step: Step) -> int | None:
    config = _config(step)
    return None if config is None else parameters_of(config)


def _tokens(step: Step) -> int:
    """Tokens that a training step sees; for tuning the most there can be, every row at full length."""
    if step.stage == "continue_pretrain":
        return step.settings["continue_pretrain"].tokens
    if step.stage not in ("sft", "dpo"):
        return 0
    settings = step.settings[step.stage]
    rows = sum(chosen["maximum_samples"] for chosen in step.settings["datasets"])
    answers = 2 if step.stage == "dpo" else 1
    return int(rows * answers * settings.max_length * settings.epochs)


def _thousands(value: int | None) -> str:
    return "–" if not value else f"{value:,}"


def _megabytes(size: int) -> str:
    return "–" if not size else f"{size / 1e6:,.1f} MB"
