"""The training of the embedded base: a tokenizer and a small Llama, from nothing, on the world's corpus.

The base stands for Mistral 7B, which the paper starts from (Sec. 2).
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from solar_repro.errors import Stopped, UserError
from solar_repro.layers.cpu_attention import use_cpu_training_attention
from solar_repro.microworld.base_training_state import STATE_FILE, read_state, write_state
from solar_repro.microworld.muon import Float32Muon
from solar_repro.microworld.stored_corpus import CORPUS, stored_texts
from solar_repro.microworld.tokenizer import train_tokenizer
from solar_repro.scales.microworld import BaseTraining
from solar_repro.store.result import METRICS
from solar_repro.store.resume import ResumeFolder
from solar_repro.terminal.progress import Progress
from solar_repro.terminal.stopping import deferred_stop

EVALUATION_BLOCKS = 64
"""Held-out blocks on which the loss is computed at the end."""
TEXTS_AT_ONCE = 5_000
"""Documents that are tokenised at once."""


def train_base(
    mirror: Path,
    out: Path,
    settings: BaseTraining,
    log: Callable[[dict[str, float], int], None],
    resume: ResumeFolder | None = None,
) -> None:
    """Train tokenizer and model, and save both to `out` as a Hugging Face folder (bf16 safetensors).

    `log(metrics, step)` gets loss (nats per token), learning_rate and tokens_per_second, and validation_loss
    at the end. The same mirror, settings and number of threads give the same bytes. With `resume`,
    checkpoints are written, and an interrupted training resumes from the last one to the same bytes; None
    writes none.

    Raises Stopped where the process was asked to end, and UserError where the corpus is missing or does not
    fill one batch.
    """
    tokenizer = train_tokenizer(mirror, settings.vocab_size)
    tokenizer.model_max_length = settings.context_length
    blocks = _blocks(tokenizer, mirror, "train", settings.context_length)
    if len(blocks) < settings.batch_size:
        raise UserError(
            f"the corpus in {mirror / CORPUS} fills {len(blocks)} blocks of {settings.context_length} tokens "
            f"and a batch takes {settings.batch_size}: raise the world's documents or lower batch_size"
        )
    torch.manual_seed(settings.seed)
    model = _model(settings, tokenizer)
    use_cpu_training_attention(model)
    model.train()
    optimizers = _optimizers(model, settings)
    tokens_a_step = settings.batch_size * settings.context_length
    newest = resume and resume.newest_checkpoint()
    done = read_state(newest / STATE_FILE, model, optimizers) if newest else 0
    total = (settings.steps - done) * tokens_a_step
    with deferred_stop() as asked, Progress("base", total, "tokens", is_main=True) as progress:
        started, told, saved_at = time.monotonic(), done, time.monotonic()
        order = islice(_batches(len(blocks), settings), done, None)
        for step in range(done + 1, settings.steps + 1):
            rate = settings.learning_rate * _schedule(step, settings)
            for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16"):
                loss = _loss(model, torch.from_numpy(blocks[next(order)].astype("int64")))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            progress.advance(tokens_a_step, f"loss {loss.item():.3f}")
            now = time.monotonic()
            if step % settings.log_every == 0 or step == settings.steps:
                speed = (step - told) * tokens_a_step / max(now - started, 1e-9)
                log({"loss": loss.item(), "learning_rate": rate, "tokens_per_second": speed}, step)
                started, told = now, step
            if resume and (asked.is_set() or resume.is_due(step, saved_at)):
                resume.remove_old_checkpoints()
                state = resume.new_checkpoint(step)
                state.mkdir(parents=True, exist_ok=True)
                write_state(state / STATE_FILE, model, optimizers, step)
                resume.publish_checkpoint(state, out / METRICS)
                saved_at = now
                if asked.is_set():
                    raise Stopped(f"stopped at step {step} of {settings.steps}; its state is saved")
    log({"validation_loss": _validation_loss(model, tokenizer, mirror, settings)}, settings.steps)
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _blocks(tokenizer: PreTrainedTokenizerFast, mirror: Path, split: str, length: int) -> np.ndarray:
    """The documents of a split, each as `<s> … </s>`, end to end, cut into token ids [blocks, length]."""
    encode = tokenizer.backend_tokenizer.encode_batch_fast
    end, documents, parts = tokenizer.eos_token_id, [], []

    def flush() -> None:
        tokens = [token for one in encode(documents) for token in (*one.ids, end)]
        parts.append(np.array(tokens, dtype=np.uint16))
        documents.clear()

    for (text,) in stored_texts(mirror, CORPUS, split, ["text"]):
        documents.append(text)
        if len(documents) == TEXTS_AT_ONCE:
            flush()
    flush()
    tokens = np.concatenate(parts)
    return tokens[: len(tokens) // length * length].reshape(-1, length)


def _model(settings: BaseTraining, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            intermediate_size=settings.intermediate_size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.key_value_heads,
            max_position_embeddings=settings.context_length,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _optimizers(model: LlamaForCausalLM, settings: BaseTraining) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the layers, and AdamW for the embedding and the norms.

    Muon's updates are scaled to the size of AdamW's (Liu et al. 2025), so that one learning rate serves both.
    """
    embedding = model.get_input_embeddings().weight
    inner = [weight for weight in model.parameters() if weight.ndim == 2 and weight is not embedding]
    norms = [weight for weight in model.parameters() if weight.ndim < 2]
    muon = (torch.optim.Muon if settings.precision == "bfloat16" else Float32Muon)(
        inner,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [
            {"params": [embedding], "weight_decay": settings.weight_decay},
            {"params": norms, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    return [muon, adamw]


def _schedule(step: int, settings: BaseTraining) -> float:
    """The share of the peak learning rate at a step, counted from 1.

    It rises linearly, stays constant, and falls linearly over the last `decay_share` of the steps.
    """
    decay_steps = max(1, round(settings.steps * settings.decay_share))
    return min(1.0, step / (settings.warmup_steps + 1), (settings.steps + 1 - step) / decay_steps)


def _batches(blocks: int, settings: BaseTraining) -> Iterator[np.ndarray]:
    """Yield the numbers [batch] of each step's blocks, in random order, epoch after epoch, without a rest."""
    stream = np.random.default_rng(settings.seed)
    while True:
        order = stream.permutation(blocks)
        for first in range(0, blocks - settings.batch_size + 1, settings.batch_size):
            yield order[first : first + settings.batch_size]


def _loss(model: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """The loss of tokens [blocks, length], in nats per token."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def _validation_loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, mirror: Path, settings: BaseTraining
) -> float:
    """The loss on the first held-out blocks, in nats per token."""
    blocks = _blocks(tokenizer, mirror, "validation", settings.context_length)[:EVALUATION_BLOCKS]
    model.eval()
    with torch.no_grad():
        losses = [_loss(model, torch.from_numpy(block[None].astype("int64"))).item() for block in blocks]
    return sum(losses) / max(len(losses), 1)
