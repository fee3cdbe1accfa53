"""The models that the checkpoint benchmark works on, and the checks of what its contenders wrote.

Run as a process of its own (`python -m benchmarks.performance.checkpoint_models …`), so that the memory it
takes is not counted against a contender. Prints one JSON value.
"""

import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.checkpoint.folder import Checkpoint, open_checkpoint
from solar_repro.checkpoint.headers import TensorRange, element_count
from solar_repro.checkpoint.layer_map import LayerMap, dus, parameters_of
from solar_repro.checkpoint.shards import plan_shards, write_index
from solar_repro.safety.json_files import write_json
from solar_repro.terminal.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 24  # bytes
SHARDS = 2


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped model and the m by which it is up-scaled."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    m: int

    @property
    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

    @property
    def layer_map(self) -> LayerMap:
        return dus(self.layers, self.m)

    @property
    def bytes(self) -> int:
        return 2 * parameters_of(self.config)

    @property
    def upscaled_bytes(self) -> int:
        return 2 * parameters_of({**self.config, "num_hidden_layers": len(self.layer_map.layers)})


SHAPES = {
    "small": Shape(1024, 3584, layers=10, heads=16, key_value_heads=4, vocabulary=8000, m=2),
    "full": Shape(4096, 14336, layers=32, heads=32, key_value_heads=8, vocabulary=32000, m=8),
}


def tensors_of(shape: Shape) -> dict[str, TensorRange]:
    """Names and shapes of a Mistral, in the order in which transformers saves them."""
    keys = shape.hidden // shape.heads * shape.key_value_heads
    of_layer = {
        "input_layernorm": (shape.hidden,),
        "mlp.down_proj": (shape.hidden, shape.inner),
        "mlp.gate_proj": (shape.inner, shape.hidden),
        "mlp.up_proj": (shape.inner, shape.hidden),
        "post_attention_layernorm": (shape.hidden,),
        "self_attn.k_proj": (keys, shape.hidden),
        "self_attn.o_proj": (shape.hidden, shape.hidden),
        "self_attn.q_proj": (shape.hidden, shape.hidden),
        "self_attn.v_proj": (keys, shape.hidden),
    }
    sizes = {
        "lm_head": (shape.vocabulary, shape.hidden),
        "model.embed_tokens": (shape.vocabulary, shape.hidden),
    }
    for layer in sorted(range(shape.layers), key=str):
        sizes |= {f"model.layers.{layer}.{name}": size for name, size in of_layer.items()}
    sizes["model.norm"] = (shape.hidden,)
    return {
        f"{n}.weight": TensorRange(Path(), "BF16", size, 0, 2 * element_count(size))
        for n, size in sizes.items()
    }


def write_model(shape: Shape, folder: Path, seed: int) -> None:
    """Write a seeded random bfloat16 model in two shards. Shards that an earlier call finished are kept."""
    import torch

    if (folder / "config.json").exists():  # written last
        return
    folder.mkdir(parents=True, exist_ok=True)
    shards = plan_shards(tensors_of(shape), math.ceil(shape.bytes / SHARDS) + shape.inner * shape.hidden * 2)
    unfinished = folder / "unfinished"
    with Progress(f"writing {folder.name}", shape.bytes, "B") as progress:
        for number, shard in enumerate(shards):
            if (folder / shard.name).exists():
                progress.advance(sum(tensor.length for tensor in shard.tensors.values()))
                continue
            generator = torch.Generator().manual_seed(1000 * seed + number)
            with unfinished.open("wb") as stream:
                stream.write(shard.header)
                for tensor in shard.tensors.values():
                    for start in range(0, tensor.length, CHUNK):
                        count = min(CHUNK, tensor.length - start) // 2
                        values = torch.empty(count).normal_(std=0.02, generator=generator).bfloat16()
                        stream.write(values.view(torch.uint8).numpy().data)
                        progress.advance(2 * count)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.rename(folder / shard.name)
    write_index(shards, folder)
    write_json(folder / "config.json", shape.config)


def differing_tensors(shape: Shape, base: Path, out: Path) -> list[str]:
    """Names of the up-scaled tensors that are not, bit for bit, those of the base by the layer map."""
    old, new = open_checkpoint(base), open_checkpoint(out)
    expected: dict[str, TensorRange] = {}
    for name, tensor in old.tensors.items():
        place = old.names.split(name)
        if place is None:
            expected[name] = tensor
        else:
            copies = (i for i, layer in enumerate(shape.layer_map.layers) if layer == place[0])
            expected |= {old.names.join(copy, place[1]): tensor for copy in copies}
    differing = sorted(expected.keys() ^ new.tensors.keys())
    for name in expected.keys() & new.tensors.keys():
        if any(a != b for a, b in zip(_chunks(expected[name]), _chunks(new.tensors[name]), strict=True)):
            differing.append(name)
    return differing


def merge_error(out: Path, a: Path, b: Path, method: str, share: float) -> tuple[float, float]:
    """Root mean square distance of a merge, with `share` of the second parent, from the same in float64,
    and that of the float64 values rounded to bfloat16.

    Of large models the first, the middle and the last layer and what lies outside the layers are looked at.
    """
    import torch

    first, second, made = map(open_checkpoint, (a, b, out))
    looked_at = (
        {0, first.layers // 2, first.layers - 1} if first.parameters > 1e9 else set(range(first.layers))
    )
    squares, squares_of_rounding, count = 0.0, 0.0, 0
    for name in first.tensors:
        place = first.names.split(name)
        if place is not None and place[0] not in looked_at:
            continue
        x, y = (_whole(c, name) for c in (first, second))
        weights = 1 - share, share
        if method == "slerp":
            cos = (torch.dot(x, y) / (x.norm() * y.norm())).item()
            if abs(cos) <= 0.9995:
                angle = math.acos(cos)
                weights = tuple(math.sin(part * angle) / math.sin(angle) for part in weights)
        exact = x.mul_(weights[0]).add_(y, alpha=weights[1])
        squares += (_whole(made, name) - exact).square_().sum().item()
        squares_of_rounding += (exact.bfloat16().double() - exact).square_().sum().item()
        count += exact.numel()
    return math.sqrt(squares / count), math.sqrt(squares_of_rounding / count)


def _chunks(tensor: TensorRange) -> Iterator[bytes]:
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset)
        for start in range(0, tensor.length, CHUNK):
            yield stream.read(min(CHUNK, tensor.length - start))


def _whole(checkpoint: Checkpoint, name: str) -> "Tensor":
    import torch

    raw = bytearray().join(_chunks(checkpoint.tensors[name]))
    return torch.frombuffer(raw, dtype=torch.bfloat16).double()


if __name__ == "__main__":
    what, size, *rest = sys.argv[1:]
    results = {
        "write": lambda: write_model(SHAPES[size], Path(rest[0]), int(rest[1])),
        "differing": lambda: differing_tensors(SHAPES[size], Path(rest[0]), Path(rest[1])),
        "error": lambda: merge_error(Path(rest[0]), Path(rest[1]), Path(rest[2]), rest[3], float(rest[4])),
    }
    print(json.dumps(results[what]()))
