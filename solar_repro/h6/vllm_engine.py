"""vLLM, through the harness's own adapter, for the columns whose `backend` it is."""

from importlib.util import find_spec
from pathlib import Path

import torch
from lm_eval.api.model import LM

from solar_repro.checkpoint.load import drop_trailing_tokens
from solar_repro.errors import UserError
from solar_repro.h6.adapter import SharedPrefixLM


def require_vllm() -> None:
    """Raise UserError if vLLM is not installed."""
    if find_spec("vllm") is None:
        raise UserError(
            "backend vllm: vLLM is not installed; pip install 'lm-eval[vllm]' or set evaluate.backend to hf"
        )


def start_vllm(model: Path | str, dtype: str, instead_of: SharedPrefixLM) -> LM:
    """The harness's vLLM adapter with the weights, precision and context of another adapter.

    The other one's weights are freed first, for vLLM takes nine tenths of the GPU's memory.
    """
    instead_of.model.to("meta")
    torch.cuda.empty_cache()
    from lm_eval.models.vllm_causallms import VLLM  # here, for it is an option that may not be installed

    engine = VLLM(
        pretrained=str(model),
        dtype=dtype,
        max_model_len=instead_of.max_length,
        batch_size="auto",
        load_format="safetensors",
    )
    drop_trailing_tokens(engine.tokenizer, model)
    return engine
