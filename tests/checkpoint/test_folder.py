"""Checkpoint folders: what is opened, and what is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from solar_repro.checkpoint.folder import carry_files, open_checkpoint
from solar_repro.errors import UserError
from tests.tiny_decoders import KINDS, LAYERS, load

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(saved: Callable[..., Path], tmp_path: Path) -> Path:
    """A sharded checkpoint to be damaged."""
    return Path(shutil.copytree(saved("mistral", shard="10KB"), tmp_path / "base"))


def change_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_parameters_are_the_models(kind: str, saved: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(saved(kind))
    assert checkpoint.layers == LAYERS
    assert checkpoint.parameters == sum(p.numel() for p in load(saved(kind)).parameters())


def test_a_stored_tied_head_is_counted_once(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved("llama"), tmp_path / "base"))
    before = open_checkpoint(folder).parameters
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert open_checkpoint(folder).parameters == before


def test_shards_and_one_file_hold_the_same(saved: Callable[..., Path]) -> None:
    one, many = open_checkpoint(saved("mistral")), open_checkpoint(saved("mistral", shard="10KB"))
    assert len({tensor.file for tensor in many.tensors.values()}) > 2
    described = [{n: (t.dtype, t.shape, t.length) for n, t in c.tensors.items()} for c in (one, many)]
    assert described[0] == described[1]
    assert one.bytes == many.bytes == 4 * one.parameters


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle.*from_pretrained.*save_pretrained"):
        open_checkpoint(tmp_path)


def test_shards_without_an_index_and_what_a_trainer_leaves(folder: Path) -> None:
    (folder / INDEX).unlink()
    for name in ("optimizer.pt", "training_args.bin", "rng_state_0.pth"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"holds model-00001-of-\d+\.safetensors but no {INDEX}"):
        open_checkpoint(folder)
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        open_checkpoint(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is an adapter .* merge_and_unload"):
        open_checkpoint(folder)


def test_layers_beyond_the_configs_count_are_told_as_such(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.w" for layer in range(5)]
    folder = write(tmp_path / "x", names, num_hidden_layers=4, num_nextn_predict_layers=1)
    with pytest.raises(
        UserError, match=r"layer model\.layers\.4, one beyond .* save it to another folder"
    ) as told:
        _ = open_checkpoint(folder).layers
    assert "agree" not in str(told.value)


def test_every_file_of_a_tokenizer_is_carried(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "additional_chat_templates").mkdir(parents=True)
    out.mkdir()
    carried = ("tekken.json", "tokenizer.json", "additional_chat_templates/tool_use.jinja")
    for name in (*carried, "modeling_x.py", "additional_chat_templates/x.py"):
        (source / name).write_text("x")
    carry_files(source, out)
    assert sorted(str(file.relative_to(out)) for file in out.rglob("*.*")) == sorted(carried)


def test_templates_of_the_hubs_cache_are_carried(tmp_path: Path) -> None:
    repository, out = tmp_path / "models--org--name", tmp_path / "out"
    source = repository / "snapshots" / "abc"
    (source / "additional_chat_templates").mkdir(parents=True)
    (repository / "blobs").mkdir()
    out.mkdir()
    (repository / "blobs" / "t").write_text("x")
    (source / "additional_chat_templates" / "tool_use.jinja").symlink_to("../../../blobs/t")
    assert list(carry_files(source, out)) == ["additional_chat_templates/tool_use.jinja"]


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"neither model\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_missing_shard(folder: Path) -> None:
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match=r"model-00002.*missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "a\\x.safetensors", "x.bin", "", 3, None]
)
def test_shard_names_stay_in_the_folder(folder: Path, name: Any) -> None:
    change_index(folder, lambda weight_map: weight_map.update({"model.norm.weight": name}))
    with pytest.raises(UserError, match=r"model\.norm\.weight.*not the name of a safetensors file"):
        open_checkpoint(folder)


def test_an_index_that_names_too_little(folder: Path) -> None:
    change_index(folder, lambda weight_map: weight_map.pop("model.norm.weight"))
    with pytest.raises(
        UserError, match=r"does not agree with .*: tensor 'model\.norm\.weight' is only in the shard"
    ):
        open_checkpoint(folder)


def test_an_index_that_names_too_much(folder: Path) -> None:
    change_index(folder, lambda weight_map: weight_map.update(x=weight_map["model.norm.weight"]))
    with pytest.raises(UserError, match=r"does not agree with .*: tensor 'x' is only in the index"):
        open_checkpoint(folder)


def test_an_index_without_a_map(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": []}')
    with pytest.raises(UserError, match="weight_map"):
        open_checkpoint(folder)


def test_a_config_that_is_no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"config\.json: not a valid JSON object"):
        open_checkpoint(folder)


def write(folder: Path, names: list[str], **config: Any) -> Path:
    folder.mkdir()
    save_file({name: torch.zeros(2) for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("names", "config", "message"),
    [
        (["a.0.w", "b.0.w"], {"n_layer": 1}, "under one prefix, found 'a.', 'b.'"),
        (["embed.weight"], {"n_layer": 1}, "found none"),
        (["h.0.w", "h.2.w"], {"n_layer": 3}, "tensors of layer h.1 are missing"),
        (["h.0.w", "h.1.w"], {"n_layer": 3}, r"2 layers under 'h.', but the config says \{'n_layer': 3\}"),
        (["h.0.w", "h.1.w"], {}, "the config says nothing"),
    ],
)
def test_layers_that_cannot_be_told(
    names: list[str], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        _ = open_checkpoint(write(tmp_path / "x", names, **config)).layers


def test_experts_inside_a_layer_are_no_layers(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.experts.{expert}.w1.weight" for layer in range(2) for expert in range(5)]
    checkpoint = open_checkpoint(write(tmp_path / "x", names, num_hidden_layers=2))
    assert checkpoint.layers == 2
    assert checkpoint.names.prefix == "model.layers."
    assert checkpoint.names.split(names[-1]) == (1, "experts.4.w1.weight")
