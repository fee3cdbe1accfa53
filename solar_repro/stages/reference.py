"""The reference of DPO: what the model that alignment tuning starts from says of each pair (Sec. 3).

It is computed once for a model and its pairs, and shared by every DPO that starts from them.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel

from solar_repro.checkpoint.load import round_linear_layers
from solar_repro.contract import FrozenModel, ReferenceSettings, TuningInputs
from solar_repro.data.templates import set_chat_template
from solar_repro.device import device
from solar_repro.errors import Stopped
from solar_repro.layers.training_attention import use_training_attention
from solar_repro.shared_prefix.token_scores import token_scores
from solar_repro.store.result import Log
from solar_repro.terminal.progress import Progress
from solar_repro.terminal.stopping import deferred_stop
from solar_repro.training.adapters import load_frozen
from solar_repro.training.reference import write_reference
from solar_repro.training.trainer import as_rank_0
from solar_repro.training.tuning_data import preference_pairs

BATCH_TOKENS = 8192
PAIRS_AT_ONCE = 512
"""Pairs among which batches of like length are formed."""


def run(out: Path, log: Log, settings: ReferenceSettings, inputs: TuningInputs) -> None:
    """Write the log-probabilities that the model gives to both answers of every pair.

    Several processes, each with a copy of the model, share the pairs out among themselves.
    """
    state = PartialState(cpu=device() == "cpu")
    model, tokenizer = load_frozen(inputs.model, settings.reference)
    set_chat_template(tokenizer, settings.template)
    pairs, tokens = preference_pairs(out, log, settings, settings.max_length, inputs, tokenizer)
    own = pairs.select(range(state.process_index, len(pairs), state.num_processes))
    rounds = math.ceil(len(pairs) / state.num_processes / PAIRS_AT_ONCE)
    parts = gather_object([log_probabilities(model, own, settings.reference, rounds)])
    if state.is_main_process:
        whole = np.empty((len(pairs), 2), dtype=np.float32)
        for rank, part in enumerate(parts):
            whole[rank :: state.num_processes] = part
        write_reference(out, pairs, whole)
        log(
            {
                "pairs": len(pairs),
                "tokens": tokens,
                "chosen": whole[:, 0].mean(),
                "rejected": whole[:, 1].mean(),
            }
        )


def log_probabilities(model: PreTrainedModel, pairs: Dataset, how: FrozenModel, rounds: int) -> np.ndarray:
    """Summed log p (nats) of the chosen and the rejected answer of each pair [pairs, 2].

    The model computes as in training, up to the order of sums: it is itself before the first step. All
    processes take as many `rounds`, and end together when rank 0 is asked to: Stopped.
    """
    model.eval()
    use_training_attention(model, how.precision)
    half = how.precision == "bfloat16"
    if half and how.weights == "float32":
        round_linear_layers(model, torch.bfloat16)
    found = np.empty((len(pairs), 2), dtype=np.float32)
    with (
        Progress("reference", len(pairs), "pairs") as progress,
        torch.autocast(model.device.type, torch.bfloat16, enabled=half),
        deferred_stop() as asked,
    ):
        for start in range(0, rounds * PAIRS_AT_ONCE, PAIRS_AT_ONCE):
            if as_rank_0(asked.is_set(), model.device):
                raise Stopped(f"stopped after {start:,} pairs, of which nothing is kept")
            part = pairs[start : start + PAIRS_AT_ONCE]
            if not part["prompt_ids"]:  # another process has one pair more
                continue
            for column, answers in enumerate((part["chosen_ids"], part["rejected_ids"])):
                found[start : start + len(answers), column] = _sums(model, part["prompt_ids"], answers)
            progress.advance(len(part["prompt_ids"]))
    return found


def _sums(model: PreTrainedModel, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[float]:
    sequences = [np.array(prompt + answer, np.int32) for prompt, answer in zip(prompts, answers, strict=True)]
    scores = token_scores(model, sequences, batch_tokens=BATCH_TOKENS)
    return [
        float(score.log_probs[-len(answer) :].sum()) for score, answer in zip(scores, answers, strict=True)
    ]
