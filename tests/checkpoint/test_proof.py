"""What cannot be shown to keep its meaning is refused before a byte is copied; what can is right."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.architectures import logits, rearranged
from solar_repro.checkpoint.config import PLAIN_TYPES
from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import LayerMap, block_expansion, dus, repeat
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale
from solar_repro.errors import UserError
from tests.tiny_decoders import LAYERS, load

MOE = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 4, "sliding_window": 4}
JAMBA = {
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "mamba_d_state": 4,
    "mamba_dt_rank": 4,
    "use_mamba_kernels": False,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture
def with_config(saved: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A saved tiny model whose config.json lacks some keys and has others."""

    def change(kind: str, drop: tuple[str, ...], config: dict[str, Any], **sizes: Any) -> Path:
        folder = Path(shutil.copytree(saved(kind, **sizes), tmp_path / "base"))
        stored = json.loads((folder / "config.json").read_text())
        stored = {key: value for key, value in stored.items() if key not in drop} | config
        (folder / "config.json").write_text(json.dumps(stored))
        return folder

    return change


def upscaled(source: Path, layer_map: LayerMap, out: Path) -> Any:
    plan = plan_upscale(source, layer_map)
    out.mkdir()
    write_upscale(plan, out)
    return load(out)


@pytest.mark.parametrize(
    ("kind", "layer_map", "sizes", "message"),
    [
        ("jamba", dus(LAYERS, 1), JAMBA, r"new layer \d.*Jamba\w+Layer.*attn_layer_period"),
        (
            "opt",
            block_expansion(LAYERS, 2),
            {"do_layer_norm_before": False, "word_embed_proj_dim": 16, "ffn_dim": 24, "pad_token_id": 1},
            "would not hand on what it is given",
        ),
        (
            "minimax",
            dus(LAYERS, 1),
            {"num_local_experts": 2, "head_dim": 4, "num_experts_per_tok": 1},
            "buffer diagonal_decay would hold other",
        ),
        ("minicpm3", dus(LAYERS, 1), {}, "scale"),
        ("modernbert-decoder", repeat(LAYERS), {"local_attention": 4, **SPECIAL}, "new layer 4.*attn_norm"),
    ],
)
def test_what_would_be_wrong_is_refused_in_one_line(
    kind: str, layer_map: LayerMap, sizes: dict[str, Any], message: str, saved: Callable[..., Path]
) -> None:
    source = saved(kind, **sizes)
    with pytest.raises(UserError, match=message) as refusal:
        plan_upscale(source, layer_map)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(f"{source / 'config.json'}: ")
    assert "-P upscale.unproved=true" in str(refusal.value)
    assert plan_upscale(source, layer_map, unproved=True).layer_map == layer_map


@pytest.mark.parametrize(
    ("kind", "drop", "config", "sizes"),
    [
        ("lfm2", ("layer_types",), {"full_attn_idxs": [2]}, {"full_attn_idxs": [2], "conv_L_cache": 3}),
        ("gemma2", ("layer_types",), {}, {}),
        (
            "qwen2",
            ("layer_types",),
            {},
            {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2},
        ),
        (
            "modernbert-decoder",
            ("layer_types",),
            {"global_attn_every_n_layers": 2},
            {"local_attention": 4, **SPECIAL},
        ),
        (
            "gpt_neo",
            (),
            {},
            {"attention_types": [[["global", "local"], 2]], "window_size": 4, "num_layers": LAYERS},
        ),
        ("gpt2", (), {}, {"scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": True}),
    ],
)
def test_kinds_by_index_follow_the_layers(
    kind: str,
    drop: tuple[str, ...],
    config: dict[str, Any],
    sizes: dict[str, Any],
    with_config: Callable[..., Path],
    tmp_path: Path,
) -> None:
    source, layer_map = with_config(kind, drop, config, **sizes), dus(LAYERS, 1)
    new = upscaled(source, layer_map, tmp_path / "new")
    assert torch.equal(logits(new), logits(rearranged(load(source), layer_map)))


def test_block_expansion_zeroes_the_biases_of_experts_too(saved: Callable[..., Path], tmp_path: Path) -> None:
    source = saved("gpt_oss", **MOE)
    new = upscaled(source, block_expansion(LAYERS, 2), tmp_path / "new")
    assert torch.equal(logits(new), logits(load(source)))


def test_a_scale_by_layer_index_is_refused(saved: Callable[..., Path]) -> None:
    source = saved("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UserError, match="new layer 3, a copy of layer 1: attn: scaling would be"):
        plan_upscale(source, dus(LAYERS, 1))


def test_code_of_the_checkpoint_is_neither_run_nor_named_in_the_result(
    with_config: Callable[..., Path], tmp_path: Path
) -> None:
    source = with_config("llama", (), {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}})
    (source / "modeling_x.py").write_text("raise SystemExit('it ran')")
    upscaled(source, dus(LAYERS, 1), tmp_path / "new")
    assert "auto_map" not in open_checkpoint(tmp_path / "new").config


def test_a_type_that_transformers_lacks_is_refused(with_config: Callable[..., Path]) -> None:
    source = with_config("llama", (), {"model_type": "nobodys"})
    with pytest.raises(UserError, match="transformers has no model_type 'nobodys' of its own"):
        plan_upscale(source, dus(LAYERS, 1))


def test_quantised_weights_are_not_zeroed(with_config: Callable[..., Path]) -> None:
    source = with_config("llama", (), {"quantization_config": {"quant_method": "bitsandbytes"}})
    with pytest.raises(UserError, match="weights that are not quantised, but quantization_config is set"):
        plan_upscale(source, block_expansion(LAYERS, 2), unproved=True)


def test_tensors_of_the_base_must_be_the_models(saved: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(saved("gemma2"), tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    for change, message in (
        ({"model.layers.1.extra.weight": torch.zeros(2)}, r"holds a tensor model\.layers\.1\.extra\.weight"),
        # Named like an old mask, but a bias by its shape.
        ({"model.layers.1.attn.bias": torch.zeros(16)}, r"holds a tensor model\.layers\.1\.attn\.bias"),
        ({"model.norm.weight": None}, r"wants a tensor model\.norm\.weight"),
    ):
        changed = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(UserError, match=message):
            plan_upscale(folder, dus(LAYERS, 1))


def test_buffers_that_are_computed_anew_do_not_matter(saved: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(saved("gemma2"), tmp_path / "base"))
    old = {"inv_freq": torch.zeros(2), "masked_bias": torch.tensor(-1e4), "bias": torch.ones(1, 1, 32, 32)}
    buffers = {f"model.layers.0.self_attn.{name}": tensor for name, tensor in old.items()}
    save_file(load_file(folder / "model.safetensors") | buffers, folder / "model.safetensors")
    plan_upscale(folder, dus(LAYERS, 1))


def test_infinity_in_a_config_is_taken_as_transformers_takes_it(
    with_config: Callable[..., Path], tmp_path: Path
) -> None:
    source = with_config("llama", (), {"time_step_limit": [0.0, float("inf")]})
    assert upscaled(source, dus(LAYERS, 1), tmp_path / "new").config.time_step_limit == [0.0, float("inf")]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in ("gpt2", "llama") else pytest.mark.slow)
        for kind in sorted(PLAIN_TYPES)
    ],
)
def test_types_that_start_without_pytorch_are_proved(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    from benchmarks.architectures import LAYERS, MAPS, random_model

    random_model(kind).save_pretrained(tmp_path)
    monkeypatch.setattr("solar_repro.checkpoint.upscale.is_plain", lambda base: False)
    for layer_map in (*MAPS, repeat(LAYERS)):
        plan_upscale(tmp_path, layer_map)
