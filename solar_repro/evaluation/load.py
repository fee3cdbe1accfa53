"""Load any causal language model for scoring, and name its exact weights."""

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.errors import UserError

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
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device}: no CUDA device is visible here; use device=cpu")
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
        loaded = AutoModelForCausalLM.from_pretrained(
            str(model), dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model {model}: not loadable as a causal language model ({reason})") from error
    finally:
        if bars:
            logging.enable_progress_bar()
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
            f"tokenizer of {model}: writes {end} behind every text, which scoring cannot use; set "
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
        f"tokenizer of {model}: writes {end} behind every text; left out here (stock lm-eval scores each "
        "choice as this token alone)",
        file=sys.stderr,
        flush=True,
    )


def model_digest(model: Path | str) -> str:
    """sha256 over names and bytes of a model's weights, config and tokenizer (a hub id: its cached snapshot).

    Reads every byte: some 10 s per 20 GB on a fast disk.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        patterns = ["*.safetensors", "*.json", "*.model"]
        folder = Path(snapshot_download(str(model), allow_patterns=patterns))
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".safetensors", ".json", ".model"} and path.name != "manifest.json":
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
