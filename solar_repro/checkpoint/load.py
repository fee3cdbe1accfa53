"""The one place where transformers loads a checkpoint: safetensors alone, and no code that comes with it.

`load_for_training` and `load_for_scoring` are what the stages call; both stand on `pretrained_model` and
`pretrained_tokenizer`, which check the folder first.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from solar_repro.checkpoint.model_source import model_folder
from solar_repro.checkpoint.tokenizer import set_pad_token
from solar_repro.errors import UserError
from solar_repro.safety.config_bounds import refuse_absurd_config
from solar_repro.safety.json_files import MAX_JSON_BYTES, read_json
from solar_repro.safety.regular_files import refuse_foreign_links
from solar_repro.safety.sandbox import try_tokenizer
from solar_repro.store.fingerprint import file_digests, fingerprint_of
from solar_repro.store.manifest import MANIFEST_FILE
from solar_repro.store.model_files import CARRIED_FILES

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

DTYPES = ("float32", "bfloat16", "float16")
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
)
_SMALL_BYTES = 10_000_000
_ATTENTION = ("attn_implementation", "_attn_implementation")


def load_for_training(folder: Path, dtype: str = "float32", **settings: Any) -> Loaded:
    """Load a checkpoint's model, in float32 master weights unless `dtype` differs, and its tokenizer.

    `settings` go to `from_pretrained`. Raises UserError as `load_training_tokenizer` and `pretrained_model`.
    """
    tokenizer = load_training_tokenizer(folder)
    return pretrained_model(folder, dtype=getattr(torch, dtype), **settings), tokenizer


def load_training_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer and give it a token to pad with (`set_pad_token`).

    Raises UserError if there is no tokenizer, or if it lacks a BOS or an EOS token.
    """
    tokenizer = pretrained_tokenizer(folder)
    for name in ("bos_token_id", "eos_token_id"):
        if getattr(tokenizer, name) is None:
            token = name.removesuffix("_id")
            raise UserError(f"{folder.name}: the tokenizer has no {token}; set it in tokenizer_config.json")
    set_pad_token(tokenizer)
    return tokenizer


def load_for_scoring(model: Path | str, *, device: str = "cpu", dtype: str = "float32") -> Loaded:
    """Load the model of a folder or hub id in evaluation mode, and its tokenizer.

    Raises UserError if there is no such model, if it has no safetensors or its tokenizer has neither BOS nor
    EOS, or if the dtype or device is unknown.
    """
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
    drop_trailing_tokens(tokenizer, model)
    return loaded.eval().to(device), tokenizer


def round_linear_layers(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round the weights of linear layers, as autocast does before each product of matrices, to save memory.

    Autocast would keep its rounded copies beside them. Embeddings and norms stay in float32, and with them
    the states that pass from layer to layer.
    """
    embedding = model.get_input_embeddings().weight
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.weight is not embedding:
            module.to(dtype)


def drop_trailing_tokens(tokenizer: PreTrainedTokenizerBase, model: Path | str) -> None:
    """Stop a tokenizer from adding special tokens, such as EOS, after every text, and print that it does.

    A trailing token would end a prompt before its answer. The tokens of a choice are those of prompt and
    choice beyond the number of the prompt's own, so a trailing token would be all that is left of the choice;
    the harness's own adapters make this mistake. Raises UserError for a slow tokenizer, which is fixed.
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
    """Return `sha256:…` over names and bytes of weights, config and tokenizer of a folder or hub id.

    A file that was hashed before and has not changed since is not read again.
    """
    folder = model_folder(str(model))
    files = [
        path
        for path in folder.iterdir()
        if path.suffix in {".safetensors", ".json", ".model"} and path.name != MANIFEST_FILE
    ]
    return fingerprint_of({file.name: digest for file, digest in file_digests(files).items()})


def pretrained_model(model: Path | str, **settings: Any) -> PreTrainedModel:
    """Load the causal language model of a folder or hub id; `settings` go to `from_pretrained`.

    Raises UserError if it cannot be loaded, has no safetensors, or needs its own code to run.
    """
    folder = _checked_folder(model)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with _load_errors(model, "a causal language model"):
            return AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, **settings
            )
    finally:
        if bars:
            logging.enable_progress_bar()


def pretrained_config(model: Path | str) -> PretrainedConfig:
    """Load the config of a folder or hub id; raises UserError as `pretrained_model` does."""
    folder = _checked_folder(model)
    with _load_errors(model, "a causal language model"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def pretrained_tokenizer(model: Path | str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub id; raises UserError as `pretrained_model` does."""
    folder = _checked_folder(model)
    advice = "; put its tokenizer.json and tokenizer_config.json beside the weights"
    try_tokenizer(folder)
    with _load_errors(model, "a tokenizer", advice):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _checked_folder(model: Path | str) -> Path:
    """Return the model's folder after checking its links, sizes and configs; raises UserError."""
    folder = model_folder(str(model))
    refuse_foreign_links(folder)
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder / 'adapter_config.json'}: names another model to be loaded; "
            "merge the adapter into its model and give that"
        )
    config = {}
    for name in ("config.json", *CARRIED_FILES):
        file, most = folder / name, _SMALL_BYTES if name in _SMALL_FILES else MAX_JSON_BYTES
        if not file.exists():
            continue
        if file.stat().st_size > most:
            raise UserError(f"{file}: larger than {most:,} bytes; this is no file of a checkpoint")
        if name in _SMALL_FILES and file.suffix == ".json":
            content = read_json(file, constants=True)
            refuse_absurd_config(file, content)
            config = content if name == "config.json" else config
    for name in _ATTENTION:
        if "/" in str(config.get(name)):
            raise UserError(
                f"{folder / 'config.json'}: {name} names code of the hub ({config[name]!r}), which is not "
                "run here; remove the key"
            )
    return folder


@contextmanager
def _load_errors(model: Path | str, kind: str, advice: str = "") -> Iterator[None]:
    """Turn whatever transformers raises for a malformed checkpoint into a UserError."""
    try:
        yield
    except BaseException as error:  # transformers raises anything for a malformed file
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # raised by Rust
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model {model}: needs its own code to be run (auto_map), which this project never does; "
                "give a checkpoint of an architecture that transformers has"
            ) from None
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model {model}: cannot be loaded as {kind} ({reason}){advice}") from error
