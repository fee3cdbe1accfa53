"""vLLM, through the harness's own adapter, for the tasks whose `backend` it is."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.checkpoint.load import drop_trailing_tokens
from solar_repro.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from solar_repro.h6.adapter import SharedPrefixLM


def require_vllm() -> None:
    """UserError where vLLM is not installed."""
    if find_spec("vllm") is None:
        raise UserError(
            "backend vllm: vLLM is not installed; pip install 'lm-eval[vllm]' or set evaluate.backend to hf"
        )


def start_vllm(model: Path | str, dtype: str, instead_of: "SharedPrefixLM") -> "LM":
    """The harness's vLLM adapter with the same weights, precision and context; the other's are given up.

    vLLM takes nine tenths of the GPU's memory for itself.
    """
    import torch

    instead_of.model.to("meta")
    torch.cuda.empty_cache()
    from lm_eval.models.vllm_causallms import VLLM

    engine = VLLM(
        pretrained=str(model),
        dtype=dtype,
        max_model_len=instead_of.max_length,
        batch_size="auto",
        load_format="safetensors",
    )
    drop_trailing_tokens(engine.tokenizer, model)
    return engine
