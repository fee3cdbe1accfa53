"""The embedded base's tokenizer, and the texts of a mirror that it and the base are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.errors import UserError
from solar_repro.microworld.write import CORPUS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
TOKENIZER_DOCUMENTS = 30_000  # documents that merges are counted on; more change none of the first 1,000
CHAT = "### User:\n{}\n\n### Assistant:\n{}"  # the released template, so that its marks are few tokens


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


def stored_texts(mirror: Path, hub_id: str, split: str, columns: list[str]) -> Iterator[tuple[str, ...]]:
    """The columns of a split's rows in a mirror, in order; UserError where it has none."""
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
    for number, (text,) in enumerate(stored_texts(mirror, CORPUS, "train", ["text"])):
        if number == TOKENIZER_DOCUMENTS:
            break
        yield text
    for hub_id, columns in (
        ("vicgalle/alpaca-gpt4", ["instruction", "output"]),
        ("meta-math/MetaMathQA", ["query", "response"]),
    ):
        for question, answer in stored_texts(mirror, hub_id, "train", columns):
            yield CHAT.format(question, answer)
