"""Load any causal language model for scoring, and name its exact weights."""

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.checkpoint.given import model_folder
from solar_repro.checkpoint.pretrained import pretrained_model, pretrained_tokenizer
from solar_repro.errors import UserError
from solar_repro.safety.regular import within

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

DTYPES = ("float32", "bfloat16", "float16")


def load_model(model: Path | str, *, device: str = "cpu", dtype: str = "float32") -> "Loaded":
    """The model of a folder or hub id, in evaluation mode, and its tokenizer.

    Safetensors only, no remote code.

    Raises UserError where there is no such model, it has no safetensors, or the dtype or device is unknown.
    """
    import torch

    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device}: no CUDA device is visible here; use device=cpu")
    tokenizer = pretrained_tokenizer(model)
    loaded = pretrained_model(model, dtype=getattr(torch, dtype))
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(
            f"tokenizer of {model}: has neither a BOS nor an EOS token, so a text has no first context; "
            "set bos_token in tokenizer_config.json"
        )
    leave_out_end(tokenizer, model)
    return loaded.eval().to(device), tokenizer


def leave_out_end(tokenizer: "PreTrainedTokenizerBase", model: Path | str) -> None:
    """Keep a tokenizer from writing special tokens behind every text (an EOS, say), and say so.

    They would end a prompt before its answer. Of a choice, whose tokens are those that prompt and choice have
    beyond the prompt's number, they alone would be left: the harness's own adapters err so.
    """
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    places = range(len(whole) - len(plain) + 1) if plain else ()
    begin = next((place for place in places if whole[place : place + len(plain)] == plain), None)
    if begin is None or begin + len(plain) == len(whole):
        return
    end = tokenizer.decode(whole[begin + len(plain) :])
    if not tokenizer.is_fast:
        raise UserError(
            f"tokenizer of {model}: adds {end} after every text, which scoring cannot use; set "
            "add_eos_token to false in tokenizer_config.json"
        )
    from tokenizers.processors import TemplateProcessing

    first = {"id": "begin", "ids": whole[:begin], "tokens": tokenizer.convert_ids_to_tokens(whole[:begin])}
    tokenizer.backend_tokenizer.post_processor = (
        TemplateProcessing(single=["begin", "$A"], special_tokens=[first])
        if begin
        else TemplateProcessing(single=["$A"], special_tokens=[])
    )
    print(
        f"tokenizer of {model}: adds {end} after every text; it is left out here (stock lm-eval "
        "would score each choice as this token alone)",
        file=sys.stderr,
        flush=True,
    )


def model_digest(model: Path | str) -> str:
    """sha256 over names and bytes of a model's weights, config and tokenizer (a hub id: its cached snapshot).

    Reads every byte: some 10 s per 20 GB on a fast disk.
    """
    folder = model_folder(str(model))
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".safetensors", ".json", ".model"} and path.name != "manifest.json":
            with open(path, "rb", opener=within(folder)) as file:
                digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
