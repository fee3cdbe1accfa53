"""Up-scaled folders against models put together from transformers' own modules."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from solar_repro.checkpoint import copying, upscale
from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import LayerMap, block_expansion, dus, interleave, ranges, repeat
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale
from solar_repro.errors import UserError
from solar_repro.store.hashing import sha256
from tests.tiny_decoders import KINDS, LAYERS, load, logits


def deeper(model: Any, layer_map: LayerMap) -> Any:
    """The reference: the base's own layer modules, copied and put in the new order."""
    model = copy.deepcopy(model)
    holder, name = next(
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, torch.nn.ModuleList)
    )
    layers = [copy.deepcopy(getattr(holder, name)[layer]) for layer in layer_map.layers]
    for index, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    setattr(holder, name, torch.nn.ModuleList(layers))
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[layer] for layer in layer_map.layers]
    return model


def write(source: Path, layer_map: LayerMap, out: Path, **options: Any) -> Path:
    out.mkdir()
    plan = plan_upscale(source, layer_map, **options)
    digests = write_upscale(plan, out)
    assert digests == {shard.name: sha256(out / shard.name) for shard in plan.shards}
    return out


@pytest.mark.parametrize(
    ("kind", "layer_map"),
    [
        *((kind, dus(LAYERS, 1)) for kind in (*KINDS, "gemma2")),
        ("llama", repeat(LAYERS)),
        ("gpt2", interleave(LAYERS)),
        ("gpt_neox", ranges("2-4,0-3", LAYERS)),
    ],
)
def test_logits_equal_those_of_the_rearranged_modules(
    kind: str, layer_map: LayerMap, saved: Callable[..., Path], tmp_path: Path
) -> None:
    new = load(write(saved(kind), layer_map, tmp_path / "new"))
    assert new.config.num_hidden_layers == len(layer_map.layers)
    assert torch.equal(logits(new), logits(deeper(load(saved(kind)), layer_map)))


@pytest.mark.parametrize("kind", [*KINDS, "gemma2"])
def test_block_expansion_leaves_the_function_unchanged(
    kind: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    new = load(write(saved(kind), block_expansion(LAYERS, 2), tmp_path / "new"))
    assert new.config.num_hidden_layers == 6
    assert torch.equal(logits(new), logits(load(saved(kind))))


def test_per_layer_lists_of_the_config_follow_the_layers(saved: Callable[..., Path], tmp_path: Path) -> None:
    types = ["sliding_attention", "full_attention", "full_attention", "full_attention"]
    source = saved("qwen2", use_sliding_window=True, sliding_window=3, max_window_layers=1, layer_types=types)
    layer_map = ranges("0-4,0-4", LAYERS)
    new = load(write(source, layer_map, tmp_path / "new"))
    assert new.config.layer_types == types * 2
    assert torch.equal(logits(new), logits(deeper(load(source), layer_map)))


@pytest.mark.parametrize("tied", [True, False])
def test_sharded_in_sharded_out(tied: bool, saved: Callable[..., Path], tmp_path: Path) -> None:
    source = saved("llama", shard="8KB", tie_word_embeddings=tied)
    assert len(list(source.glob("*.safetensors"))) > 3
    one = write(source, dus(LAYERS, 1), tmp_path / "one")
    many = write(source, dus(LAYERS, 1), tmp_path / "many", shard_bytes=7000)
    assert [file.name for file in one.glob("model*")] == ["model.safetensors"]
    shards = sorted(file.name for file in many.glob("*.safetensors"))
    assert shards == [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    assert len(shards) > 3
    assert ("lm_head.weight" in open_checkpoint(many).tensors) != tied
    assert torch.equal(logits(load(one)), logits(load(many)))
    index = json.loads((many / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == open_checkpoint(one).bytes


def test_the_plan_says_what_is_written(saved: Callable[..., Path], tmp_path: Path) -> None:
    plan = plan_upscale(saved("mistral"), dus(LAYERS, 1), shard_bytes=9000)
    assert not list(tmp_path.iterdir())
    out = write(saved("mistral"), dus(LAYERS, 1), tmp_path / "new", shard_bytes=9000)
    assert plan.bytes == sum(file.stat().st_size for file in out.glob("*.safetensors"))
    assert plan.parameters == sum(p.numel() for p in load(out).parameters())
    assert plan.bytes_to_read == open_checkpoint(saved("mistral")).bytes
    text = str(plan)
    assert f"{plan.parameters:,} parameters" in text
    assert f"{plan.bytes:,} bytes" in text
    assert "2→1 (distance 1)" in text


def test_the_same_bytes_whatever_the_kernel_copies_with(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved("gpt2")
    first = write(source, dus(LAYERS, 1), tmp_path / "first", shard_bytes=20_000)
    monkeypatch.setattr(copying, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(upscale, "CHUNK_BYTES", 4096)
    monkeypatch.delattr("os.copy_file_range")
    second = write(source, dus(LAYERS, 1), tmp_path / "second", shard_bytes=20_000)
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_tokenizer_and_generation_config_are_carried(shared: Path, tmp_path: Path) -> None:
    source = shared / "models" / "stories260K"
    out = write(source, dus(5, 1), tmp_path / "new")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert not (out / "README.md").exists()
    assert load(out).config.num_hidden_layers == 8


def test_a_map_for_another_base(saved: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"has 4 layers, but dus m=8 is for 32"):
        plan_upscale(saved("llama"), dus(32, 8))


def test_a_full_disk_is_told_before_anything_is_written(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_upscale(saved("llama"), dus(LAYERS, 1))
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"bytes are needed, 1,000 are free"):
        write_upscale(plan, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_torch_is_imported(saved: Callable[..., Path], tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from solar_repro.checkpoint.layer_map import dus\n"
        "from solar_repro.store.publish import publish\n"
        "from solar_repro.checkpoint.upscale import plan_upscale, write_upscale\n"
        f"plan = plan_upscale(Path({str(saved('llama'))!r}), dus({LAYERS}, 1))\n"
        f"with publish(Path({str(tmp_path / 'new')!r})) as working: write_upscale(plan, working)\n"
        "assert not {'torch', 'transformers', 'safetensors', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert load(tmp_path / "new").config.num_hidden_layers == 6


def test_a_checkpoint_may_have_more_shards_than_files_may_be_open(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    import os
    import resource

    from solar_repro.checkpoint.merge import merge

    source = saved("llama", shard="1KB")
    assert len(list(source.glob("*.safetensors"))) > 20
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = max(map(int, os.listdir("/proc/self/fd"))) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        for name in ("deeper", "merged"):
            (tmp_path / name).mkdir()
        write_upscale(plan_upscale(source, dus(LAYERS, 1), 1000), tmp_path / "deeper")
        merge([source, source], tmp_path / "merged", "slerp", shard_bytes=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list((tmp_path / "deeper").glob("*.safetensors"))) > 20
