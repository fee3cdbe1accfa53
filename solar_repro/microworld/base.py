"""The embedded base: a tokenizer and a small Llama, both trained from nothing on the world's corpus.

It stands for Mistral 7B, which the paper starts from (Sec. 2).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.errors import UserError
from solar_repro.microworld.generate import CORPUS
from solar_repro.microworld.settings import BaseTraining
from solar_repro.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
TOKENIZER_DOCUMENTS = 30_000  # documents that merges are counted on; more change none of the first 1,000
CHAT = "### User:\n{}\n\n### Assistant:\n{}"  # the released template, so that its marks are few tokens
EVALUATION_BLOCKS = 64  # held-out blocks whose mean loss is logged last


def train_tokenizer(mirror: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `vocab_size` entries, trained on the mirror's corpus and some of its instructions.

    As Llama's: `<s>` in front by default, digits one by one, every byte encodable. Raises UserError where the
    mirror has no corpus.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(mirror), trainer)
    bos = (SPECIAL[1], tokenizer.token_to_id(SPECIAL[1]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A $B", special_tokens=[bos]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[3],
        clean_up_tokenization_spaces=False,
    )


def train_base(
    mirror: Path, out: Path, settings: BaseTraining, log: Callable[[dict[str, float], int], None]
) -> None:
    """Train tokenizer and model, and save both to `out` as a Hugging Face folder (bf16 safetensors).

    `log(metrics, step)` gets loss (nats per token), learning_rate and tokens_per_second, at the end
    validation_loss. The same mirror, settings and number of threads give the same bytes. Raises UserError
    where the corpus is missing or does not fill one batch.
    """
    import torch

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
    model.train()
    optimizer, schedule = _optimizer(model, settings)
    order = _batches(len(blocks), settings)
    tokens_a_step = settings.batch_size * settings.context_length
    start, logged = time.monotonic(), 0
    with Progress("base", settings.steps * tokens_a_step, "tokens") as progress:
        for step in range(1, settings.steps + 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                loss = _loss(model, torch.from_numpy(blocks[next(order)].astype("int64")))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            progress.advance(tokens_a_step)
            if step % settings.log_every == 0 or step == settings.steps:
                now = time.monotonic()
                rate = (step - logged) * tokens_a_step / max(now - start, 1e-9)
                log(
                    {
                        "loss": loss.item(),
                        "learning_rate": schedule.get_last_lr()[0],
                        "tokens_per_second": rate,
                    },
                    step,
                )
                start, logged = now, step
    log({"validation_loss": _validation_loss(model, tokenizer, mirror, settings)}, settings.steps)
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _texts(mirror: Path, hub_id: str, split: str, columns: list[str]) -> Iterator[tuple[str, ...]]:
    import pyarrow.parquet as pq

    files = sorted((mirror / hub_id / "data").glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(
            f"no {split} rows in {mirror / hub_id}: write the embedded world's mirror there first"
        )
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=columns):
            yield from zip(*(batch[column].to_pylist() for column in columns), strict=True)


def _tokenizer_texts(mirror: Path) -> Iterator[str]:
    for number, (text,) in enumerate(_texts(mirror, CORPUS, "train", ["text"])):
        if number == TOKENIZER_DOCUMENTS:
            break
        yield text
    for hub_id, columns in (
        ("vicgalle/alpaca-gpt4", ["instruction", "output"]),
        ("meta-math/MetaMathQA", ["query", "response"]),
    ):
        for question, answer in _texts(mirror, hub_id, "train", columns):
            yield CHAT.format(question, answer)


def _blocks(tokenizer: PreTrainedTokenizerFast, mirror: Path, split: str, length: int) -> np.ndarray:
    """The split's documents, each `<s> … </s>`, one after the other, cut into rows of `length` tokens."""
    import numpy as np

    encode = tokenizer.backend_tokenizer.encode_batch_fast
    end, documents, parts = tokenizer.eos_token_id, [], []

    def flush() -> None:
        tokens = [token for one in encode(documents) for token in (*one.ids, end)]
        parts.append(np.array(tokens, dtype=np.uint16))
        documents.clear()

    for (text,) in _texts(mirror, CORPUS, split, ["text"]):
        documents.append(text)
        if len(documents) == 5_000:
            flush()
    flush()
    tokens = np.concatenate(parts)
    return tokens[: len(tokens) // length * length].reshape(-1, length)


def _model(settings: BaseTraining, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

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


def _optimizer(
    model: LlamaForCausalLM, settings: BaseTraining
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """Fused AdamW; linear warm-up, constant, linear decay to nothing over the last `decay_share`."""
    import torch

    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    decay_steps = max(1, round(settings.steps * settings.decay_share))

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / (settings.warmup_steps + 1), (settings.steps - step) / decay_steps)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _batches(blocks: int, settings: BaseTraining) -> Iterator[np.ndarray]:
    """Rows of each step's blocks: all of them in random order, again and again; a rest is dropped."""
    import numpy as np

    stream = np.random.default_rng(settings.seed)
    while True:
        order = stream.permutation(blocks)
        for first in range(0, blocks - settings.batch_size + 1, settings.batch_size):
            yield order[first : first + settings.batch_size]


def _loss(model: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss of (blocks, length) tokens."""
    import torch

    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def _validation_loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, mirror: Path, settings: BaseTraining
) -> float:
    import torch

    blocks = _blocks(tokenizer, mirror, "validation", settings.context_length)[:EVALUATION_BLOCKS]
    model.eval()
    with torch.no_grad():
        losses = [_loss(model, torch.from_numpy(block[None].astype("int64"))).item() for block in blocks]
    return sum(losses) / max(len(losses), 1)
