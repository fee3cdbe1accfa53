"""What the project asks of any tokenizer: a name for what it does, a token to pad with, a first token."""

import hashlib
import json

from transformers import PreTrainedTokenizerBase


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase, *, chat_template: bool = True) -> str:
    """sha256 over all that decides token ids: vocabulary, merges, normalisation, special tokens.

    The chat template counts too, unless only plain texts are encoded. A tokenizer that is not of the
    tokenizers library is named by what it prints.
    """
    state = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(tokenizer)
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    template = tokenizer.chat_template if chat_template else None
    return hashlib.sha256(f"{state}\0{special}\0{template}".encode()).hexdigest()


def set_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer that has no pad token, or pads with EOS, its unknown token to pad with, if it has one.

    Llama and Mistral have no pad token. With byte fallback no text ever holds the unknown token, so padding
    cannot be mistaken for the end of an answer, which EOS as padding can; and no row is added to the
    embeddings. Without an unknown token EOS is taken.
    """
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token


def first_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that a text's first token is predicted from: BOS, or EOS where there is no BOS."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return int(eos if bos is None else bos)
