"""Low-rank adapters (LoRA, Hu et al. 2021) for tuning where a GPU is too small for whole weights.

With `quantised` the frozen weights are held in 4 bits (QLoRA, Dettmers et al. 2023). What comes out is a
whole checkpoint either way: the adapters are added to the model's own weights in float32.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.checkpoint.load import load_for_training, load_training_tokenizer, pretrained_config
from solar_repro.contract import FrozenModel
from solar_repro.device import device
from solar_repro.errors import UserError
from solar_repro.scales.training import Tuning

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_SHARED_READING = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")
"""Variables of accelerate's launcher: of an FSDP whose weights rank 0 hands out."""


def load_for_tuning(
    folder: Path, settings: Tuning, seed: int
) -> "tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]":
    """Load a checkpoint's model and tokenizer to train whole or by adapters. The latter needs peft."""
    lora = settings.lora
    if lora is None:
        return load_whole(folder)
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("lora: needs peft; pip install 'solar-repro[lora]'") from None
    from transformers import set_seed

    model, tokenizer = load_frozen(folder, FrozenModel.before(settings))
    set_seed(seed)  # the adapters begin at random
    config = LoraConfig(
        task_type="CAUSAL_LM", target_modules="all-linear", r=lora.rank, lora_alpha=lora.alpha,
        base_model_name_or_path=str(folder),
    )  # fmt: skip
    return get_peft_model(model, config), tokenizer


def load_whole(folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load a checkpoint's model and tokenizer to train all its weights.

    Where FSDP shards them, one process on each machine reads them. Rank 0 gives the others their shards.
    """
    shared = all(os.environ.get(name) == "true" for name in _SHARED_READING)
    if shared and os.environ["LOCAL_RANK"] != "0":
        return _without_weights(folder), load_training_tokenizer(folder)
    return load_for_training(folder)


def _without_weights(folder: Path) -> "PreTrainedModel":
    """A checkpoint's model with memory for its weights that nobody has touched, and which takes no room yet.

    On PyTorch's meta device the weights would have no addresses, by which accelerate tells them apart.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    config = pretrained_config(folder)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty_like(weight, device="cpu")))
    model.tie_weights()
    return model


def load_frozen(folder: Path, how: FrozenModel) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load a checkpoint's model, on a GPU straight to that of this process, and its tokenizer.

    Of a quantised model embeddings, norms and head are in float32, as in training.
    """
    place: dict[str, Any] = {}
    if device() == "cuda":
        place = {"device_map": {"": int(os.environ.get("LOCAL_RANK", 0))}}
    elif device() == "mps":
        place = {"device_map": {"": "mps"}}
    if how.weights != "nf4":
        return load_for_training(folder, how.weights, **place)
    from peft import prepare_model_for_kbit_training

    model, tokenizer = load_for_training(folder, how.precision, **_quantisation(), **place)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False), tokenizer


def _quantisation() -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise UserError("lora.quantised: needs bitsandbytes; pip install 'solar-repro[lora]'")
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_quant_storage=torch.bfloat16,
    )  # fmt: skip
    return {"quantization_config": config}


def merged(model: "PeftModel", weights: "dict[str, Tensor]") -> "PreTrainedModel":
    """The whole model: the checkpoint that was tuned, in float32, with the adapters of `weights` added."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    config = model.peft_config["default"]
    adapters = get_peft_model_state_dict(model, state_dict=weights)
    whole, _ = load_for_training(Path(config.base_model_name_or_path))
    adapted = get_peft_model(whole, config)
    set_peft_model_state_dict(adapted, adapters)
    return adapted.merge_and_unload()
