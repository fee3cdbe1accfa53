"""What the training stages share: trainer arguments and live metrics."""

import math
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model
from torch.utils.data import RandomSampler
from transformers import PrinterCallback, Trainer, TrainerCallback

from solar_repro.device import device, peak_flops
from solar_repro.errors import Stopped, UserError
from solar_repro.store.result import METRICS, Log
from solar_repro.store.resume import ResumeFolder
from solar_repro.terminal.progress import Progress
from solar_repro.terminal.stopping import StopRequest, deferred_stop
from solar_repro.training.adapters import merged
from solar_repro.training.flops import training_flops
from solar_repro.training.save import save_checkpoint, to_bfloat16

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from solar_repro.contract import TrainingSettings
    from solar_repro.scales.training import Training

SKIPPED_METRICS = ("epoch", "num_tokens")
"""Metrics of the trainers that only repeat the step, or that count tokens of padding-free batches wrongly."""


def optimiser_steps(settings: "Training", rows: int) -> int:
    """Optimiser steps of a run over `rows` training rows."""
    steps = math.ceil(settings.epochs * max(1, rows // settings.global_batch_size))
    return min(steps, settings.max_steps) if settings.max_steps else steps


def arguments(settings: "Training", rows: int, seed: int) -> dict[str, Any]:
    """Keyword arguments for `TrainingArguments` and TRL's configs: our settings in the Trainer's names."""
    if rows < settings.global_batch_size:
        raise UserError(
            f"only {rows} training rows for a global_batch_size of {settings.global_batch_size}; "
            "use more data or a smaller batch"
        )
    return {
        "output_dir": tempfile.gettempdir(),
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": math.ceil(settings.warmup_ratio * optimiser_steps(settings, rows)),
        "max_steps": optimiser_steps(settings, rows),
        "per_device_train_batch_size": settings.per_device_batch_size,
        "gradient_accumulation_steps": settings.accumulation(int(os.environ.get("WORLD_SIZE", 1))),
        "ddp_find_unused_parameters": False,
        "optim": settings.optimizer,
        "weight_decay": settings.weight_decay,
        "adam_beta2": settings.adam_beta2,
        "max_grad_norm": settings.max_grad_norm,
        # DeepSpeed is told by its own configuration (`launch.py`).
        "bf16": settings.precision == "bfloat16" and os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true",
        # TRL switches this on by default.
        "activation_checkpointing": settings.activation_checkpointing,
        "remove_unused_columns": False,
        "dataloader_drop_last": True,
        "dataloader_pin_memory": device() == "cuda",
        "use_cpu": device() == "cpu",
        # With FSDP gradients are summed after each micro-batch into the shard that a GPU holds. Otherwise
        # each GPU would keep those of the whole model until the optimiser's step.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": _is_sharded()}},
        "seed": seed,
        "data_seed": seed,
    }


def _is_sharded() -> bool:
    """Whether accelerate's launcher asks for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def _is_replicated() -> bool:
    """Whether `launch.py` asks for several copies of the model that are sharded."""
    return os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG") == "true"


class PlainTrainer(Trainer):
    """The trainer of transformers, on one device per process; under FSDP2 with bfloat16 it sums in float32.

    Every step has a whole global batch, and the passes over the rows follow each other without a gap.
    Trainers of other libraries take this class as their first base.
    """

    def _send_telemetry(self) -> None:
        """Tell nobody of this training, as TRL's trainers would."""

    def _get_train_sampler(self, train_dataset: Any = None) -> RandomSampler:
        """Draw the rows of all steps, in one epoch of the Trainer.

        With several epochs it would end each with a smaller step, of the rows that are left, and count it as
        one of `max_steps`. Resumed from the state of the last step, it would take a further one.
        """
        rows = self.args.max_steps * self.get_total_train_batch_size(self.args)
        return RandomSampler(train_dataset or self.train_dataset, num_samples=rows)

    def create_accelerator_and_postprocess(self) -> None:
        """Make the trainer's accelerator, before the model is wrapped and the reference model is made."""
        import torch
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # Without a launcher the Trainer would use all GPUs that it sees, with as many times the batch.
        self.args._n_gpu = min(1, self.args.n_gpu)
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and self.args.bf16:
            # accelerate's own policy sums gradients in bfloat16 and rounds what the model returns to it:
            # sums of log-probabilities near 300 then move in steps of 2.
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32
            )

    def training_step(self, model: Any, *arguments: Any, **settings: Any) -> "Tensor":
        """Compute one micro-batch's gradients; between copies (HSDP) they are summed after the last alone."""
        if _is_replicated():
            model.set_requires_all_reduce(self.accelerator.sync_gradients)
        loss: Tensor = super().training_step(model, *arguments, **settings)
        return loss


class ReportProgress(TrainerCallback):
    """Hands the trainer's figures to `log` step by step, with tokens per second and a progress line.

    On a GPU whose peak is known MFU is one of them, by the operations of sequences of `tokens_per_sequence`.
    It stands first among the callbacks, so that what others measure after a step does not count as training.
    """

    def __init__(
        self, label: str, log: Log, steps: int, tokens_per_step: float, tokens_per_sequence: float
    ) -> None:
        self._log, self._tokens_per_step = log, tokens_per_step
        self._length = round(tokens_per_sequence)
        self._label, self._steps = label, steps
        self._started = self._ended = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._progress = Progress(self._label, self._steps - state.global_step, "steps", is_main=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ended = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" not in logs:
            return  # the summary at the end, in averages of its own
        speed = self._tokens_per_step / (self._ended - self._started)
        figures = {name: value for name, value in logs.items() if name not in SKIPPED_METRICS}
        figures |= self._mfu(speed, kwargs["model"])
        self._log({**figures, "tokens_per_second": speed}, state.global_step)
        self._progress.advance(1, f"loss {logs['loss']:.3f}, {speed:,.0f} tokens/s")

    def _mfu(self, speed: float, model: Any) -> dict[str, float]:
        """Share of the GPUs' peak that the model's FLOPs take; nothing where the peak is not known."""
        peak = peak_flops()
        if peak is None:
            return {}
        per_token = training_flops(model.config.to_dict(), self._length)
        if is_peft_model(model):
            per_token *= 2 / 3  # frozen weights get no gradient
        return {"mfu": speed * per_token / (peak * int(os.environ.get("WORLD_SIZE", 1)))}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._progress.__exit__(None, None, None)


class SaveForResume(TrainerCallback):
    """Has the trainer save its state after so many minutes or steps, or when the process is asked to end.

    It stands last among the callbacks, so that what others log of a step is kept with its state. Of several
    processes, rank 0 decides.
    """

    def __init__(self, resume: ResumeFolder, metrics: Path, asked: StopRequest) -> None:
        self._resume, self._metrics, self._asked = resume, metrics, asked
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = self._asked.is_set() or self._resume.is_due(state.global_step, self._saved_at)
        if due and state.is_world_process_zero:
            self._resume.remove_old_checkpoints()
        control.should_save = as_rank_0(due, args.device)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # all have written their part
        if state.is_world_process_zero:
            self._resume.publish_checkpoint(self._resume.new_checkpoint(state.global_step), self._metrics)
        self._saved_at = time.monotonic()
        if as_rank_0(self._asked.is_set(), args.device):
            raise Stopped(f"stopped at step {state.global_step} of {state.max_steps}; its state is saved")


def as_rank_0(decision: bool, device: Any) -> bool:
    """What rank 0 has decided, on every rank."""
    import torch

    if not torch.distributed.is_initialized():
        return decision
    decided = torch.tensor(decision, device=device, dtype=torch.int32)
    torch.distributed.broadcast(decided, 0)
    return bool(decided)


def train(
    trainer: Trainer,
    tokenizer: "PreTrainedTokenizerBase",
    out: Path,
    resume: ResumeFolder | None,
    settings: "TrainingSettings",
) -> None:
    """Run a trainer without its own printing, from the newest saved state if there is one; write the model.

    Raises Stopped where the process was asked to end, with the state saved.
    """
    trainer.remove_callback(PrinterCallback)
    # TRL rounds adapters over quantised weights to bfloat16, in which most of their updates would vanish.
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if resume is None:
        trainer.train()
    else:
        trainer.args.output_dir = str(resume.unfinished)
        newest = resume.newest_checkpoint()
        with deferred_stop() as asked:
            trainer.add_callback(SaveForResume(resume, out / METRICS, asked))
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    weights = _whole_weights(trainer)
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        if is_peft_model(model):
            model = merged(model, weights)
            weights = model.state_dict()
        if settings.checkpoint.dtype == "bfloat16":
            weights = to_bfloat16(weights, settings.seed)
        # Gathered from shards, the two names of a tied weight are two tensors.
        weights |= {name: weights[source] for name, source in model.all_tied_weights_keys.items()}
        save_checkpoint(model, weights, tokenizer, out)


def _whole_weights(trainer: Trainer) -> "dict[str, Tensor]":
    """The trained weights in float32, gathered from all processes that hold a part."""
    if not trainer.is_deepspeed_enabled:
        weights: dict[str, Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        return weights
    from deepspeed.utils import safe_get_full_fp32_param  # its own state dict has 16 bits per number

    found = {}
    for name, parameter in trainer.accelerator.unwrap_model(trainer.model_wrapped).named_parameters():
        whole = safe_get_full_fp32_param(parameter)
        if trainer.is_world_process_zero():
            found[name] = whole.cpu()
    return found
