"""The embedded base's tokenizer, trained on the texts of a mirror."""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from solar_repro.microworld.stored_corpus import CORPUS, stored_texts

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
TOKENIZER_DOCUMENTS = 30_000
"""Documents on which merges are counted; more of them change none of the first 1,000 merges."""
CHAT = "### User:\n{}\n\n### Assistant:\n{}"
"""The chat template of the released model; merges are counted on it so that its marks are few tokens."""


def train_tokenizer(mirror: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `vocab_size` entries, trained on the mirror's corpus and some of its instructions.

    Like Llama's, it puts `<s>` before a text, splits numbers into digits and can encode every byte. Raises
    UserError where the mirror has no corpus.
    """
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


def _tokenizer_texts(mirror: Path) -> Iterator[str]:
    """The first documents of the corpus, then all rows of two instruction sets, as chats."""
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
