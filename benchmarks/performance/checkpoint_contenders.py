"""The commands that the checkpoint benchmark compares, each with a check of what it wrote."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.performance.checkpoint_models import SHAPES
from benchmarks.performance.processes import Contender

ROOT = Path(__file__).parents[2]
SHARE = 0.3
"""The share of the second parent in a merge: its weight, and SLERP's t."""
UPSCALE = """
import sys
from pathlib import Path
from solar_repro.checkpoint.layer_map import dus
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale
source, out, n, m, hashing = sys.argv[1:]
Path(out).mkdir()
write_upscale(plan_upscale(Path(source), dus(int(n), int(m))), Path(out), hashing=hashing == "hashing")
"""
MERGE = """
import sys
from pathlib import Path
from solar_repro.checkpoint.merge import merge
one, other, out, method, t = sys.argv[1:]
Path(out).mkdir()
merge([Path(one), Path(other)], Path(out), method, t=float(t), weights=[1 - float(t), float(t)],
hashing=False)
"""


def upscaling(size: str, work: Path, mergekit: Path | None) -> list[Contender]:
    """List the contenders of up-scaling; `mergekit` is a Python that has it, or None to leave it out."""
    shape, a, out, reference = SHAPES[size], work / "a", work / "out", work / "reference"
    total = shape.upscaled_bytes
    shards = sorted(a.glob("*.safetensors"))
    read = " && ".join(f"dd if='{shard}' of=/dev/null bs=16M" for shard in shards)
    write = f"dd if=/dev/zero of='{out}' bs=16M count={total} iflag=count_bytes conv=fsync"

    def check(name: str) -> Callable[[], dict[str, Any]]:
        def compare() -> dict[str, Any]:
            differing = child("differing", size, a, out)
            what = f"up-scaling, {name}: bit for bit"
            return {"what": what, "differing": differing, "passed": not differing}

        return compare

    def ours(name: str, hashing: str) -> Contender:
        command = [sys.executable, "-c", UPSCALE, str(a), str(out), str(shape.layers), str(shape.m), hashing]
        return Contender("up-scaling", name, command, (a,), out, total, check(name))

    contenders = [
        Contender("up-scaling", "dd, reading", ["sh", "-c", read], (a,), None, shape.bytes),
        Contender("up-scaling", "dd, writing", ["sh", "-c", write], (), out, total),
        Contender("up-scaling", "cp", ["cp", "-r", str(reference), str(out)], (reference,), out, total),
        ours("solar_repro", "plain"),
        ours("solar_repro, hashing", "hashing"),
    ]
    if mergekit is not None:
        layers = shape.layers
        ranges = [[0, layers - shape.m], [shape.m, layers]]
        slices = [{"sources": [{"model": str(a), "layer_range": layer_range}]} for layer_range in ranges]
        recipe = {"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"}
        command = _mergekit(mergekit, work / "passthrough.yml", recipe, out)
        contenders.append(Contender("up-scaling", "mergekit", command, (a,), out, total, check("mergekit")))
    return contenders


def merging(size: str, work: Path, mergekit: Path | None) -> list[Contender]:
    """List the contenders of merging by average and by SLERP; `mergekit` as for `upscaling`."""
    a, b, out = work / "a", work / "b", work / "out"
    contenders = []
    for method in ("average", "slerp"):

        def check(name: str, method: str = method) -> Callable[[], dict[str, Any]]:
            def compare() -> dict[str, Any]:
                error, of_rounding = child("error", size, out, a, b, method, SHARE)
                allowed = 1.01 if name == "solar_repro" else 10.0  # of mergekit only: the same operation
                what = f"{method}, {name}: distance from float64 at most {allowed} × that of rounding"
                return {"what": what, "error": error, "passed": error <= allowed * of_rounding}

            return compare

        command = [sys.executable, "-c", MERGE, str(a), str(b), str(out), method, str(SHARE)]
        contenders.append(
            Contender(method, "solar_repro", command, (a, b), out, SHAPES[size].bytes, check("solar_repro"))
        )
        if mergekit is not None:
            recipe: dict[str, Any] = {"merge_method": "linear", "dtype": "bfloat16"}
            shares = ((a, 1 - SHARE), (b, SHARE))
            recipe["models"] = [{"model": str(m), "parameters": {"weight": share}} for m, share in shares]
            if method == "slerp":
                recipe |= {"merge_method": "slerp", "base_model": str(a), "parameters": {"t": SHARE}}
                recipe["models"] = [{"model": str(model)} for model in (a, b)]
            command = _mergekit(mergekit, work / f"{method}.yml", recipe, out)
            contenders.append(
                Contender(method, "mergekit", command, (a, b), out, SHAPES[size].bytes, check("mergekit"))
            )
    return contenders


def _mergekit(python: Path, recipe_file: Path, recipe: dict[str, Any], out: Path) -> list[str]:
    recipe_file.write_text(json.dumps(recipe))  # JSON is YAML
    return [str(python), "-m", "mergekit.scripts.run_yaml", str(recipe_file), str(out), "--no-copy-tokenizer"]


def child(*arguments: object) -> Any:
    """Call a function of checkpoint_models in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.performance.checkpoint_models", *map(str, arguments)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
