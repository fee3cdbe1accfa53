"""The one place where transformers loads a checkpoint: safetensors alone, and no code that comes with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.checkpoint.given import model_folder
from solar_repro.errors import UserError
from solar_repro.safety.config_bounds import refuse_absurd
from solar_repro.safety.json_files import MAX_JSON_BYTES, read_json
from solar_repro.safety.regular import refuse_strangers
from solar_repro.safety.trial import try_tokenizer
from solar_repro.store.model_files import CARRIED_FILES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


def pretrained_model(model: Path | str, **settings: Any) -> "PreTrainedModel":
    """The causal language model of a folder or hub id; `settings` as `from_pretrained` takes them.

    UserError for one that cannot be loaded, has no safetensors, or needs its own code to be run.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    folder = _checked(model)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with _explained(model, "a causal language model"):
            return AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, **settings
            )
    finally:
        if bars:
            logging.enable_progress_bar()


def pretrained_tokenizer(model: Path | str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or hub id; UserError as for the model."""
    from transformers import AutoTokenizer

    folder = _checked(model)
    advice = "; put its tokenizer.json and tokenizer_config.json beside the weights"
    try_tokenizer(folder)
    with _explained(model, "a tokenizer", advice):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _checked(model: Path | str) -> Path:
    folder = model_folder(str(model))
    refuse_strangers(folder)
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
            refuse_absurd(file, content)
            config = content if name == "config.json" else config
    for name in _ATTENTION:
        if "/" in str(config.get(name)):
            raise UserError(
                f"{folder / 'config.json'}: {name} names code of the hub ({config[name]!r}), which is not "
                "run here; remove the key"
            )
    return folder


@contextmanager
def _explained(model: Path | str, kind: str, advice: str = "") -> Iterator[None]:
    try:
        yield
    except BaseException as error:  # transformers raises whatever a malformed file makes it stumble over
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of Rust's
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model {model}: needs its own code to be run (auto_map), which this project never does; "
                "give a checkpoint of an architecture that transformers has"
            ) from None
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model {model}: cannot be loaded as {kind} ({reason}){advice}") from error
