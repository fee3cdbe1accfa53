"""Tiny random decoders, saved by transformers, and small hand-made safetensors files."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

LAYERS = 4
KINDS = ("llama", "mistral", "qwen2", "gemma", "gpt_neox", "gpt2")
_SMALL = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
_KINDS: dict[str, dict[str, Any]] = {
    "llama": {**_SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "mistral": {**_SMALL, "num_key_value_heads": 2, "sliding_window": None},
    "qwen2": {**_SMALL, "num_key_value_heads": 2},
    "gemma": {**_SMALL, "num_key_value_heads": 1, "head_dim": 4, "pad_token_id": 0},
    "gpt_neox": {**_SMALL},
    "gemma2": {**_SMALL, "num_key_value_heads": 2, "head_dim": 4, "sliding_window": 4, "pad_token_id": 0},
    "gpt2": {"vocab_size": 61, "n_positions": 32, "n_embd": 16, "n_layer": LAYERS, "n_head": 4},
}


def random_model(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A tiny random decoder whose norms and biases are random too, so that no tensor is like another."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    sizes = _KINDS.get(kind, {**_SMALL, "num_key_value_heads": 2})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def logits(model: Any) -> Any:
    """Logits of two fixed sequences."""
    import torch

    tokens = torch.arange(24).reshape(2, 12) * 5 % 61
    with torch.no_grad():
        return model(input_ids=tokens).logits


def load(folder: Path) -> Any:
    """The model as transformers loads it; every tensor of the folder must be one of the model's."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a tiny model (each only once) and return its folder."""
    folders: dict[str, Path] = {}

    def save(kind: str, seed: int = 0, shard: str = "1GB", **changes: Any) -> Path:
        key = repr((kind, seed, shard, changes))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(f"{kind}-{seed}")
            random_model(kind, seed, **changes).save_pretrained(folders[key], max_shard_size=shard)
        return folders[key]

    return save


def raw_file(header: Mapping[str, Any] | bytes, data: bytes = b"") -> bytes:
    """The bytes of a safetensors file with this header, however wrong."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data
