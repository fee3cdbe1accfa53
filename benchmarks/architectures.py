"""Up-scales a tiny random model of every causal decoder type of transformers, and checks each result.

    python -m benchmarks.architectures

The answer is `right` (the result loads whole, and its logits are those of the base's own layer modules in the
new order), `refused` before a byte was copied, or `wrong`. Types whose tiny model cannot be built or run here
are counted apart.
"""

import argparse
import copy
import dataclasses
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.layer_map import LayerMap, block_expansion, dus
from solar_repro.checkpoint.load import pretrained_model
from solar_repro.errors import UserError

LAYERS = 6
MAPS = (dus(LAYERS, 1), block_expansion(LAYERS, 2))
MAXIMUM_PARAMETERS = 30_000_000
_SIZES: Mapping[str, Any] = {
    **dict.fromkeys(["vocab_size"], 61),
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"], 16),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "n_inner", "d_inner", "dense_ffn_hidden_size"], 24),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "num_layers", "n_layers"], LAYERS),
    **dict.fromkeys(["num_attention_heads", "n_head", "num_heads", "n_heads"], 4),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "context_length"], 64),
    **dict.fromkeys(["head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "global_head_dim"], 4),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads", "num_global_key_value_heads"], 2),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token"], 2),
    **dict.fromkeys(
        ["moe_intermediate_size", "shared_expert_intermediate_size", "kv_lora_rank", "q_lora_rank"], 8
    ),
    **dict.fromkeys(["n_group", "topk_group"], 1),
    **dict.fromkeys(["pad_token_id"], 0),
    **dict.fromkeys(["sliding_window", "attention_window_size", "window_size", "local_attention"], 4),
    **dict.fromkeys(["state_size", "mamba_d_state", "ssm_state_size", "mamba_dt_rank", "conv_L_cache"], 4),
    **dict.fromkeys(["attn_layer_period", "full_attention_interval", "global_attn_every_n_layers"], 3),
    **dict.fromkeys(["attn_layer_offset"], 1),
}
"""Config keys that make a model tiny, where its class has them."""
_LATENT = {"num_key_value_heads": 4, "qk_rope_head_dim": 4, "head_dim": 4}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1}
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "axk1": _LATENT,
    "axk2": _LATENT,
    "bailing_hybrid": _LATENT,
    "bamba": _MAMBA,
    "blenderbot": {"decoder_attention_heads": 4},
    "codegen": {"rotary_dim": 4},
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _LATENT,
    "dots1": {"n_shared_experts": 1},
    "gemma4_text": {
        "vocab_size_per_layer_input": 61,
        "hidden_size_per_layer_input": 4,
        "num_kv_shared_layers": 0,
    },
    "glm4_moe_lite": _LATENT,
    "glm_moe_dsa": _LATENT,
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": _MAMBA,
    "kimi_linear": _LATENT,
    "mamba2": {"num_heads": 4, "head_dim": 8, "expand": 2, "n_groups": 1},
    "minicpm3": _LATENT,
    "plbart": {"decoder_attention_heads": 4},
    "whisper": {"decoder_attention_heads": 4},
    "youtu": _LATENT,
}
"""What some types need beside."""


def tiny_config(kind: str) -> Any:
    """A tiny config of the type; whatever its class raises."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[kind]
    known = {field.name for field in dataclasses.fields(config_class)}
    sizes = {key: value for key, value in _SIZES.items() if key in known}
    return config_class(**{**sizes, **_KINDS.get(kind, {})})


def random_model(kind: str) -> Any:
    """A tiny random model in which no tensor is like another; whatever transformers raises."""
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny_config(kind)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters())
    if size > MAXIMUM_PARAMETERS:
        raise ValueError(f"{size:,} parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


def logits(model: Any) -> Any:
    """Logits of two fixed sequences, without a cache."""
    import torch

    tokens = torch.arange(2 * 12).reshape(2, 12) * 5 % 61
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def rearranged(model: Any, layer_map: LayerMap) -> Any:
    """The reference: the base's own layer modules in the new order, each with its own index and config.

    Layers that an expansion adds are left out.
    """
    import torch

    model = copy.deepcopy(model)
    holder, name = next(
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == layer_map.base_layers
    )
    kept = [old for new, old in enumerate(layer_map.layers) if new not in layer_map.zeroed]
    setattr(holder, name, torch.nn.ModuleList(copy.deepcopy(getattr(holder, name)[old]) for old in kept))
    config = model.config
    for key, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == layer_map.base_layers:
            object.__setattr__(config, key, [value[old] for old in kept])
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        if getattr(config, key, None) == layer_map.base_layers:
            object.__setattr__(config, getattr(config, "attribute_map", {}).get(key, key), len(kept))
    return model


def answer(folder: Path, layer_map: LayerMap, out: Path) -> tuple[str, str]:
    """`right`, `refused` or `wrong`, and why."""

    from solar_repro.checkpoint.upscale import plan_upscale, write_upscale

    try:
        plan = plan_upscale(folder, layer_map)
    except UserError as refusal:
        return "refused", str(refusal).removeprefix(f"{folder}")
    out.mkdir()
    write_upscale(plan, out)
    base = pretrained_model(folder)
    try:
        made, info = pretrained_model(out, output_loading_info=True)
        lost = {key: sorted(map(str, value))[:3] for key, value in info.items() if value}
        if lost:
            return "wrong", f"loading: {lost}"
        difference = (logits(made) - logits(rearranged(base, layer_map))).abs().max().item()
    except Exception as error:  # whatever a model raises that does not fit its weights
        return "wrong", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ("right", "") if difference < 1e-5 else ("wrong", f"logits differ by {difference:.3g}")


def walk(kinds: list[str] | None = None) -> Iterator[tuple[str, str, str, str]]:
    """For each type and layer map: type, map, `right`, `refused`, `wrong` or `not built`, and why."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    for kind in kinds or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work, "base")
            try:
                model = random_model(kind)
                if not logits(model).isfinite().all():
                    raise ValueError("its logits are not finite")
                model.save_pretrained(folder)
            except Exception as error:  # a type that wants other sizes, other inputs, a library
                yield kind, "", "not built", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                continue
            for number, layer_map in enumerate(MAPS):
                yield kind, layer_map.name, *answer(folder, layer_map, Path(work, str(number)))


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", help="model types to try (default: all)")
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    warnings.simplefilter("ignore")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    counts: Counter[tuple[str, str]] = Counter()
    for kind, map_name, found, why in walk(parser.parse_args().kinds):
        print(f"{kind:<28} {map_name:<24} {found:<10} {why}", flush=True)
        counts[map_name, found] += 1
    print()
    for (map_name, found), count in sorted(counts.items()):
        print(f"{map_name:<24} {found:<10} {count}")


if __name__ == "__main__":
    main()
