"""Merged folders against float64 sums over state dicts, and against transformers' logits."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from solar_repro.checkpoint import merge_stream
from solar_repro.checkpoint.merge import merge
from solar_repro.checkpoint.merge_report import MergeReport
from solar_repro.errors import UserError
from solar_repro.store.hashing import sha256
from tests.tiny_decoders import KINDS, LAYERS, load, logits

Tensors = dict[str, torch.Tensor]


def tensors_of(folder: Path) -> Tensors:
    return {
        name: value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def run(out: Path, sources: list[Path], method: Any, **options: Any) -> tuple[Tensors, MergeReport]:
    out.mkdir()
    report = merge(sources, out, method, **options)
    assert report.digests == {file.name: sha256(file) for file in out.glob("*.safetensors")}
    return tensors_of(out), report


def slerp64(a: torch.Tensor, b: torch.Tensor, t: float) -> tuple[torch.Tensor, float]:
    """SLERP of the flattened tensors in float64, and their cosine."""
    a, b = a.double(), b.double()
    cos = (torch.dot(a.flatten() / a.norm(), b.flatten() / b.norm())).item()
    if abs(cos) > 0.9995:
        return (1 - t) * a + t * b, cos
    angle = math.acos(cos)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle), cos


@pytest.mark.parametrize("kind", KINDS)
def test_average_has_the_logits_of_the_averaged_modules(
    kind: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    sources = [saved(kind, seed) for seed in range(3)]
    weights = [0.5, 0.3, 0.2]
    _, report = run(tmp_path / "out", sources, "average", weights=weights)
    reference = load(sources[0])
    with torch.no_grad():
        parameters = [dict(load(source).named_parameters()) for source in sources]
        for name, parameter in reference.named_parameters():
            parameter.copy_(sum(w * p[name].double() for w, p in zip(weights, parameters, strict=True)))
    torch.testing.assert_close(logits(load(tmp_path / "out")), logits(reference), rtol=1e-5, atol=1e-5)
    assert set(report.effective_weights.values()) == {(0.5, 0.3, 0.2)}


@pytest.mark.parametrize(("t", "chunk_elements"), [(0.0, None), (0.3, None), (1.0, None), (0.3, 16)])
def test_slerp(
    t: float,
    chunk_elements: int | None,
    saved: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if chunk_elements:
        monkeypatch.setattr(merge_stream, "BLOCK_ELEMENTS", chunk_elements)
        monkeypatch.setattr(merge_stream, "BUFFER_BYTES", 1)
    sources = [saved("mistral", 0), saved("mistral", 1)]
    made, report = run(tmp_path / "out", sources, "slerp", t=t)
    a, b = map(tensors_of, sources)
    assert made.keys() == a.keys()
    linear = set()
    by_layer: dict[str, list[str]] = {}
    for name, tensor in made.items():
        expected, cos = slerp64(a[name], b[name], t)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
        assert report.cosines[name][0] == pytest.approx(cos, abs=1e-5)
        linear |= {name} if abs(cos) > 0.9995 else set()
        by_layer.setdefault(name.split(".")[2] if ".layers." in name else "outside the layers", []).append(
            name
        )
    assert set(report.linear_fallbacks) == linear
    assert list(report.layer_cosines) == [*map(str, range(LAYERS)), "outside the layers"]
    for layer, names in by_layer.items():
        x, y = (torch.cat([tensors[name].double().flatten() for name in names]) for tensors in (a, b))
        assert report.layer_cosines[layer][0] == pytest.approx(
            (x @ y / (x.norm() * y.norm())).item(), abs=1e-5
        )


def test_slerp_names_the_tensors_that_were_linear(saved: Callable[..., Path], tmp_path: Path) -> None:
    _, report = run(tmp_path / "out", [saved("llama"), saved("llama")], "slerp", t=0.25)
    assert set(report.linear_fallbacks) == set(tensors_of(saved("llama")))
    assert set(report.effective_weights.values()) == {(0.75, 0.25)}
    assert all(cosines == pytest.approx((1,)) for cosines in report.cosines.values())


@pytest.mark.parametrize("method", ["ties", "dare", "task_arithmetic"])
def test_task_vectors_of_the_base_itself_give_the_base(
    method: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    base = saved("gpt2")
    made, _ = run(tmp_path / "out", [base, base], method, base=base)
    for name, tensor in tensors_of(base).items():
        assert torch.equal(made[name], tensor)


def test_ties_over_many_chunks_is_ties_at_once(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, base = [saved("llama", 1), saved("llama", 2)], saved("llama", 0)
    options = {"base": base, "weights": [0.4, 0.6], "density": 0.3}
    once, _ = run(tmp_path / "once", sources, "ties", **options)
    monkeypatch.setattr(merge_stream, "BLOCK_ELEMENTS", 16)
    monkeypatch.setattr(merge_stream, "BUFFER_BYTES", 1)
    many, _ = run(tmp_path / "many", sources, "ties", **options)
    for name, tensor in once.items():
        assert torch.equal(tensor, many[name])


def test_the_same_bytes_every_time(saved: Callable[..., Path], tmp_path: Path) -> None:
    sources = [saved("mistral", 0), saved("mistral", 1)]
    digests = [
        run(tmp_path / str(i), sources, "dare", base=saved("mistral", 2), seed=3)[1].digests for i in range(2)
    ]
    assert digests[0] == digests[1]


def recast(source: Path, out: Path, dtype: torch.dtype, shards: int) -> Path:
    """The same checkpoint in another dtype, its tensors dealt to shards."""
    out.mkdir()
    weight_map = {}
    names = sorted(tensors_of(source))
    for shard in range(shards):
        dealt = {name: tensors_of(source)[name].to(dtype) for name in names[shard::shards]}
        save_file(dealt, out / f"s{shard}.safetensors")
        weight_map |= dict.fromkeys(dealt, f"s{shard}.safetensors")
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (out / "config.json").write_text((source / "config.json").read_text())
    return out


def test_parents_of_other_dtypes_and_shards(saved: Callable[..., Path], tmp_path: Path) -> None:
    a = recast(saved("qwen2", 0), tmp_path / "a", torch.bfloat16, 1)
    b = recast(saved("qwen2", 1), tmp_path / "b", torch.float16, 3)
    made, _ = run(tmp_path / "out", [a, b], "average", shard_bytes=9000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    for name, tensor in made.items():
        assert tensor.dtype == torch.float32  # holds both without loss
        torch.testing.assert_close(tensor, (tensors_of(a)[name].float() + tensors_of(b)[name].float()) / 2)
    assert load(tmp_path / "out").dtype == torch.float32

    narrow, _ = run(tmp_path / "narrow", [a, b], "average", dtype="bfloat16", accumulate="float64")
    for name, tensor in narrow.items():
        exact = (tensors_of(a)[name].double() + tensors_of(b)[name].double()) / 2
        assert torch.equal(tensor, exact.to(torch.bfloat16))
    assert json.loads((tmp_path / "narrow" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_tied_and_an_untied_parent(saved: Callable[..., Path], tmp_path: Path) -> None:
    tied, untied = saved("llama", 0), saved("llama", 1, tie_word_embeddings=False)
    assert "lm_head.weight" not in tensors_of(tied)
    for number, sources in enumerate([[tied, untied], [untied, tied]]):
        made, report = run(tmp_path / str(number), sources, "average")
        embedding = tensors_of(tied)["model.embed_tokens.weight"]
        torch.testing.assert_close(
            made["lm_head.weight"], (embedding + tensors_of(untied)["lm_head.weight"]) / 2
        )
        assert report.config_differences == ("tie_word_embeddings",)
        model = load(tmp_path / str(number))
        assert torch.equal(model.lm_head.weight, made["lm_head.weight"])
        assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    both, _ = run(tmp_path / "both", [tied, saved("llama", 1)], "average")
    assert both.keys() == tensors_of(tied).keys()


def changed(source: Path, out: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a checkpoint of one file with other tensors in it."""
    shutil.copytree(source, out)
    save_file(
        change(load_file(out / "model.safetensors")), out / "model.safetensors", metadata={"format": "pt"}
    )
    return out


@pytest.mark.parametrize("said", [True, None])
def test_a_stored_head_of_its_own_is_kept_though_the_config_says_tied(
    said: bool | None, saved: Callable[..., Path], tmp_path: Path
) -> None:
    head = torch.randn(61, 16)
    own = changed(saved("llama", 0), tmp_path / "own", lambda tensors: tensors | {"lm_head.weight": head})
    config = json.loads((own / "config.json").read_text())
    assert config.pop("tie_word_embeddings") is True
    config |= {} if said is None else {"tie_word_embeddings": said}
    (own / "config.json").write_text(json.dumps(config))
    made, _ = run(tmp_path / "out", [own, own], "average")
    assert torch.equal(made["lm_head.weight"], head)
    torch.testing.assert_close(logits(load(tmp_path / "out")), logits(load(own)))
    tied = saved("llama", 1)
    made, _ = run(tmp_path / "two", [tied, own], "average")
    embedding = tensors_of(tied)["model.embed_tokens.weight"]
    torch.testing.assert_close(made["lm_head.weight"], (embedding + head) / 2)
    assert torch.equal(load(tmp_path / "two").lm_head.weight, made["lm_head.weight"])


def test_a_stored_head_that_is_the_embedding_is_left_out(saved: Callable[..., Path], tmp_path: Path) -> None:
    tied = saved("llama", 0)
    stored = changed(
        tied,
        tmp_path / "stored",
        lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
    )
    made, _ = run(tmp_path / "out", [stored, saved("llama", 1)], "average")
    assert made.keys() == tensors_of(tied).keys()
    # The same numbers in another width are no copy that can be told by its bytes: kept, nothing is lost.
    wide = changed(
        stored,
        tmp_path / "wide",
        lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"].double()},
    )
    made, _ = run(tmp_path / "both", [wide, tied], "average")
    torch.testing.assert_close(made["lm_head.weight"], tensors_of(stored)["lm_head.weight"].double())


@pytest.mark.parametrize("place", [0, 1, "base"])
def test_buffers_that_are_computed_anew_block_no_merge(
    place: int | str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    def old(tensors: Tensors) -> Tensors:
        buffers = {
            f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.rand(2) for layer in range(LAYERS)
        }
        return tensors | buffers

    plain = [saved("llama", 0), saved("llama", 1), saved("llama", 2)]
    number = 2 if place == "base" else int(place)
    with_buffers = list(plain)
    with_buffers[number] = changed(plain[number], tmp_path / "old", old)
    for name, (*sources, base) in (("plain", plain), ("buffers", with_buffers)):
        run(tmp_path / name, sources, "ties", base=base)
    made, expected = tensors_of(tmp_path / "buffers"), tensors_of(tmp_path / "plain")
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in expected)


def test_auto_map_goes_where_its_code_is_not_carried(saved: Callable[..., Path], tmp_path: Path) -> None:
    given = Path(shutil.copytree(saved("llama", 0), tmp_path / "given"))
    config = json.loads((given / "config.json").read_text())
    (given / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "x.X"}}))
    run(tmp_path / "out", [given, saved("llama", 1)], "average")
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())


def hub_gpt2(tensors: Tensors) -> Tensors:
    """Names and causal masks of the hub's GPT-2."""
    mask = torch.tril(torch.ones(32, 32)).view(1, 1, 32, 32)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    masks = {f"h.{layer}.attn.bias": mask.clone() for layer in range(LAYERS)}
    return tensors | masks | {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(LAYERS)}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_gpt2_with_and_without_the_prefix_of_the_inner_model(
    order: tuple[int, int], saved: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = saved("gpt2", 0), saved("gpt2", 1)
    sources = [changed(a, tmp_path / "hub", hub_gpt2), b]
    made, report = run(tmp_path / "out", [sources[place] for place in order], "average")
    x, y = tensors_of(a), tensors_of(b)
    assert made.keys() == x.keys()
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, (x[name] + y[name]) / 2)
    load(tmp_path / "out")
    assert len(report.layer_cosines) == LAYERS + 1
    made, _ = run(tmp_path / "self", [sources[0], sources[0]], "average")
    assert made.keys() == {name.removeprefix("transformer.") for name in x}
    torch.testing.assert_close(logits(load(tmp_path / "self")), logits(load(a)))


def test_biases_of_attention_are_no_masks(saved: Callable[..., Path], tmp_path: Path) -> None:
    for kind in ("gpt_neox", "gpt2", "qwen2"):
        source = saved(kind)
        made, _ = run(tmp_path / kind, [source, source], "average")
        assert made.keys() == tensors_of(source).keys()


def test_settings_by_pattern(saved: Callable[..., Path], tmp_path: Path) -> None:
    sources = [saved("mistral", 0), saved("mistral", 1)]
    made, _ = run(tmp_path / "slerp", sources, "slerp", t={"*.mlp.*": 1.0, "*.layers.0.*": 0.0, "*": 0.5})
    a, b = map(tensors_of, sources)
    for name, tensor in made.items():
        t = 1.0 if ".mlp." in name else 0.0 if ".layers.0." in name else 0.5
        torch.testing.assert_close(tensor.double(), slerp64(a[name], b[name], t)[0], rtol=1e-5, atol=1e-6)
    made, report = run(
        tmp_path / "average", sources, "average", weights={"*norm*": (1.0, 0.0), "*": (0.25, 0.75)}
    )
    for name, tensor in made.items():
        weights = (1.0, 0.0) if "norm" in name else (0.25, 0.75)
        torch.testing.assert_close(tensor, weights[0] * a[name] + weights[1] * b[name])
        assert report.effective_weights[name] == weights


def test_integers_are_carried_where_they_agree(tmp_path: Path) -> None:
    def write(name: str, mask: int) -> Path:
        (tmp_path / name).mkdir()
        tensors = {
            "h.0.mask": torch.tensor([mask, 0]),
            "h.0.w": torch.ones(3),
            "e": torch.zeros(0, 4),
            "s": torch.tensor(2.0),
        }
        save_file(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text('{"n_layer": 1}')
        return tmp_path / name

    made, _ = run(tmp_path / "out", [write("a", 7), write("b", 7)], "average")
    assert made["h.0.mask"].tolist() == [7, 0]
    assert made["s"].item() == 2
    assert made["e"].shape == (0, 4)
    with pytest.raises(UserError, match=r"'h\.0\.mask' is I64 and differs"):
        run(tmp_path / "out2", [tmp_path / "a", write("c", 8)], "average")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_is_named(
    value: float, place: int, saved: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [saved("mistral", seed) for seed in range(3)]
    bad = recast(folders[place], tmp_path / "bad", torch.float32, 1)
    tensors = load_file(bad / "s0.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, bad / "s0.safetensors")
    folders[place] = bad
    with pytest.raises(UserError, match=r"s0.*'model\.layers\.2\.mlp\.up_proj\.weight' holds NaN or Inf"):
        run(tmp_path / "out", folders[:2], "task_arithmetic", base=folders[2])


def test_overflow_of_the_output_is_named(saved: Callable[..., Path], tmp_path: Path) -> None:
    for number, (dtype, weight) in enumerate([("float16", 1e6), ("bfloat16", 1e39), (None, -1e39)]):
        with pytest.raises(UserError, match=r"tensor '.*': merged values overflow"):
            run(tmp_path / str(number), [saved("llama")], "average", weights=[weight], dtype=dtype)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mean"}, "unknown method 'mean'"),
        ({"method": "slerp", "sources": 3}, "slerp takes two sources, not 3"),
        ({"method": "average", "sources": 0}, "no sources"),
        ({"method": "ties"}, "ties needs a base"),
        ({"method": "average", "base": 1}, "average takes no base"),
        ({"method": "average", "weights": [1.0]}, "one finite number per source"),
        ({"method": "average", "weights": [1.0, math.nan]}, "one finite number per source"),
        ({"method": "slerp", "t": 1.5}, "does not lie in"),
        ({"method": "slerp", "t": {"*.mlp.*": 0.5}}, "no pattern matches tensor"),
        (
            {"method": "slerp", "t": {"*": 0.5, "*.mlp.*": 0.5}},
            r"pattern '\*\.mlp\.\*' is used for no tensor",
        ),
        ({"method": "dare", "base": 1, "density": 0.0}, "density must lie in"),
        ({"method": "dare", "base": 1, "scale": math.inf}, "scale must be finite"),
        ({"method": "average", "dtype": "int8"}, "unknown dtype 'int8'"),
        ({"method": "average", "accumulate": "bfloat16"}, "accumulate must be"),
        ({"method": "average", "device": "nowhere"}, "device 'nowhere' cannot be used"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str, saved: Callable[..., Path], tmp_path: Path) -> None:
    options = dict(options)
    sources = [saved("llama", seed) for seed in range(options.pop("sources", 2))]
    if "base" in options:
        options["base"] = saved("llama", 5)
    with pytest.raises(UserError, match=message):
        run(tmp_path / "out", sources, **options)
    assert not list((tmp_path / "out").iterdir())


def test_models_of_other_shapes(saved: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tensor 'lm_head\.weight' is \[70, 16\], not \[61, 16\]"):
        run(tmp_path / "a", [saved("mistral"), saved("mistral", vocab_size=70)], "average")
    with pytest.raises(UserError, match=r"has no tensor 'model\.layers\.3"):
        run(tmp_path / "b", [saved("mistral"), saved("mistral", num_hidden_layers=3)], "average")


def test_the_report_is_written_and_plotted(saved: Callable[..., Path], tmp_path: Path) -> None:
    _, report = run(tmp_path / "out", [saved("llama", seed) for seed in range(3)], "average")
    assert report.pairs == ((0, 1), (0, 2), (1, 2))
    report.write(tmp_path / "merge.json")
    assert (
        json.loads((tmp_path / "merge.json").read_text())["layer_cosines"].keys()
        == report.layer_cosines.keys()
    )
    report.plot(tmp_path / "cosines.png")
    assert (tmp_path / "cosines.png").read_bytes().startswith(b"\x89PNG")


def test_threads_of_torch_are_left_as_they_were(saved: Callable[..., Path], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run(tmp_path / "out", [saved("llama")], "average")
    assert torch.get_num_threads() == before
