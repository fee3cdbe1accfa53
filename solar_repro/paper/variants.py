"""The paper as data: the models of Sec. 2 and Tables 3–7, the sets of Table 1, the task names of Table 8.

A `Variant` says what a model is made from, by which stage, on which data. How big and how long is a
scale's business (`solar_repro.scales.settings`). `python -m solar_repro.paper.variants` prints the graph.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from solar_repro.errors import UserError, did_you_mean
from solar_repro.paper.data_sets import DATASETS


@dataclass(frozen=True)
class Variant:
    """One model: the stage that makes it, its parents, its data, and where the paper prints it."""

    name: str
    stage: str
    parents: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    rows: Mapping[int, str] = field(default_factory=dict)
    """Table number → the model's row name there."""
    layer_map: str = ""
    """For `upscale`: `dus`, `dus:<m>`, `ranges:<0-24,8-32>`, `repeat`, `interleave` or `block_expansion`."""
    from_scratch: bool = False
    """For `continue_pretrain`: the parent gives its shape alone; its weights are drawn anew."""
    merge_method: str = ""
    """For `merge`: `average` or `slerp`."""
    merge_weights: tuple[float, ...] = ()
    candidate: Literal["", "cand_1", "cand_2"] = ""
    """For `dpo`: the section of a scale whose settings replace those of `dpo` (Table 6)."""


_SFT_V2 = ("alpaca_gpt4", "openorca")
_DPO_V2 = ("ultrafeedback", "synth_math_alignment")

PAPER: Mapping[str, Variant] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            # Sec. 2: depth up-scaling = depthwise scaling, then continued pretraining.
            Variant("base", "base", rows={2: "Mistral 7B"}),
            Variant("upscaled", "upscale", ("base",), layer_map="dus"),
            Variant("solar", "continue_pretrain", ("upscaled",), rows={2: "SOLAR 10.7B"}),
            # Table 3: instruction tuning.
            Variant("sft_v1", "sft", ("solar",), ("alpaca_gpt4",), {3: "SFT v1"}),
            Variant("sft_v2", "sft", ("solar",), _SFT_V2, {3: "SFT v2"}),
            Variant("sft_v3", "sft", ("solar",), (*_SFT_V2, "synth_math_instruct"), {3: "SFT v3"}),
            Variant("sft_v4", "sft", ("solar",), ("alpaca_gpt4", "synth_math_instruct"), {3: "SFT v4"}),
            Variant(
                "sft_v3_v4",
                "merge",
                ("sft_v3", "sft_v4"),
                rows={3: "SFT v3+v4"},
                merge_method="average",
                merge_weights=(0.5, 0.5),
            ),
            # Tables 4 and 5: alignment tuning.
            Variant("dpo_v1", "dpo", ("sft_v3",), ("ultrafeedback",), {4: "DPO v1"}),
            Variant("dpo_v2", "dpo", ("sft_v3",), _DPO_V2, {4: "DPO v2", 5: "DPO v2"}),
            Variant("dpo_v3", "dpo", ("sft_v3_v4",), _DPO_V2, {5: "DPO v3"}),
            Variant(
                "dpo_v1_v2",
                "merge",
                ("dpo_v1", "dpo_v2"),
                rows={4: "DPO v1+v2"},
                merge_method="average",
                merge_weights=(0.5, 0.5),
            ),
            # Table 6: the settings of DPO v2 and v3 "with slightly different hyper-parameters".
            Variant("cand_1", "dpo", ("sft_v3",), _DPO_V2, {6: "Cand. 1"}, candidate="cand_1"),
            Variant("cand_2", "dpo", ("sft_v3_v4",), _DPO_V2, {6: "Cand. 2"}, candidate="cand_2"),
            # Table 7: Average (a, b) = a · Cand. 1 + b · Cand. 2.
            Variant(
                "merge_v1",
                "merge",
                ("cand_1", "cand_2"),
                rows={2: "SOLAR 10.7B-Instruct", 7: "Merge v1"},
                merge_method="average",
                merge_weights=(0.5, 0.5),
            ),
            Variant(
                "merge_v2",
                "merge",
                ("cand_1", "cand_2"),
                rows={7: "Merge v2"},
                merge_method="average",
                merge_weights=(0.4, 0.6),
            ),
            Variant(
                "merge_v3",
                "merge",
                ("cand_1", "cand_2"),
                rows={7: "Merge v3"},
                merge_method="average",
                merge_weights=(0.6, 0.4),
            ),
            Variant("merge_v4", "merge", ("cand_1", "cand_2"), rows={7: "Merge v4"}, merge_method="slerp"),
        )
    }
)

CONTROLS: Mapping[str, Variant] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            # Sec. 2: "a simpler alternative to depthwise scaling could be to just repeat its layers".
            Variant("upscaled_repeat", "upscale", ("base",), layer_map="repeat"),
            Variant("repeat_continued", "continue_pretrain", ("upscaled_repeat",)),
            # Sec. 2: what up-scaling saves, as the same shape trained from nothing on the same tokens.
            Variant("scratch_continued", "continue_pretrain", ("upscaled",), from_scratch=True),
            # What the tokens alone bring, without more depth.
            Variant("base_continued", "continue_pretrain", ("base",)),
            # Sec. 2: "other methods of depthwise scaling could also work for DUS". Each layer twice in place.
            Variant("upscaled_interleave", "upscale", ("base",), layer_map="interleave"),
            Variant("interleave_continued", "continue_pretrain", ("upscaled_interleave",)),
            # Wu et al. 2024 (LLaMA-Pro), an up-scaling that leaves the function unchanged.
            Variant("upscaled_block_expansion", "upscale", ("base",), layer_map="block_expansion"),
            Variant("block_expansion_continued", "continue_pretrain", ("upscaled_block_expansion",)),
        )
    }
)
"""Models beyond the paper's tables that its arguments call for."""

ALIASES = {"solar_instruct": "merge_v1"}
"""Sec. 4.3.2: "we chose 'Merge v1' as our SOLAR 10.7B-Instruct model"."""


@dataclass(frozen=True)
class Released:
    """A released checkpoint that Table 2 scores, and what says how much memory it takes."""

    row: str
    """The model's row name in Table 2."""
    hub_id: str
    dtype: str
    """Of the released weights; they are scored in it."""
    parameters: int
    layers: int
    key_value_size: int
    """Key/value heads × head size: numbers that a token's keys take in a layer, and its values."""
    remote_code: bool = False
    """It needs code from its own repository to be run, which is not done here."""


RELEASED = (
    Released(
        "SOLAR 10.7B-Instruct", "upstage/SOLAR-10.7B-Instruct-v1.0", "float16", 10_731_524_096, 48, 1024
    ),
    Released("Qwen 72B", "Qwen/Qwen-72B", "bfloat16", 72_287_920_128, 80, 8192, remote_code=True),
    Released(
        "Mixtral 8x7B-Instruct-v0.1",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "bfloat16",
        46_702_792_704,
        32,
        1024,
    ),
    Released("Yi 34B-200K", "01-ai/Yi-34B-200K", "bfloat16", 34_388_917_248, 60, 1024),
    Released("Yi 34B", "01-ai/Yi-34B", "bfloat16", 34_388_917_248, 60, 1024),
    Released("Mixtral 8x7B-v0.1", "mistralai/Mixtral-8x7B-v0.1", "bfloat16", 46_702_792_704, 32, 1024),
    Released("Llama 2 70B", "meta-llama/Llama-2-70b-hf", "float16", 68_976_648_192, 80, 1024),
    Released("Falcon 180B", "tiiuae/falcon-180B", "bfloat16", 179_522_565_120, 80, 512),
    Released("SOLAR 10.7B", "upstage/SOLAR-10.7B-v1.0", "float16", 10_731_524_096, 48, 1024),
    Released("Qwen 14B", "Qwen/Qwen-14B", "bfloat16", 14_167_290_880, 40, 5120, remote_code=True),
    Released(
        "Mistral 7B-Instruct-v0.2",
        "mistralai/Mistral-7B-Instruct-v0.2",
        "bfloat16",
        7_241_732_096,
        32,
        1024,
    ),
    Released("Yi 34B-Chat", "01-ai/Yi-34B-Chat", "bfloat16", 34_388_917_248, 60, 1024),
    Released("Mistral 7B", "mistralai/Mistral-7B-v0.1", "bfloat16", 7_241_732_096, 32, 1024),
)
"""Every row of Table 2, in its order."""

MAIN = (*PAPER, "upscaled_repeat", "repeat_continued", "scratch_continued")
"""What the entry point `main` makes: the paper and the controls that its Sec. 2 argues against."""


def variant(name: str) -> Variant:
    """The variant of that name; unknown: UserError with the nearest.

    `upscaled_m<k>` is DUS with m = k, `solar_m<k>` that one continued; `upscaled_0-24_8-32` stacks these
    ranges of layers, ends excluded.
    """
    name = ALIASES.get(name, name)
    if found := PAPER.get(name) or CONTROLS.get(name):
        return found
    if match := re.fullmatch(r"upscaled_m([1-9]\d*)", name):
        return Variant(name, "upscale", ("base",), layer_map=f"dus:{match[1]}")
    if match := re.fullmatch(r"solar_m([1-9]\d*)", name):
        return Variant(name, "continue_pretrain", (f"upscaled_m{match[1]}",))
    if match := re.fullmatch(r"upscaled((?:_\d+-\d+)+)", name):
        layers = match[1].removeprefix("_").replace("_", ",")
        return Variant(name, "upscale", ("base",), layer_map=f"ranges:{layers}")
    hint = did_you_mean(name, [*PAPER, *CONTROLS, *ALIASES])
    raise UserError(f"variant {name!r} does not exist; {hint}")


def lineage(*names: str) -> tuple[Variant, ...]:
    """The named variants and all that they are made from, parents before children, each once."""
    ordered: dict[str, Variant] = {}

    def visit(name: str) -> None:
        found = variant(name)
        for parent in found.parents:
            visit(parent)
        ordered.setdefault(found.name, found)

    for name in names:
        visit(name)
    return tuple(ordered.values())


def describe() -> str:
    """The graph of all variants, a line each: name, stage, parents, data, tables, other names."""
    lines = []
    for found in (*PAPER.values(), *CONTROLS.values()):
        made_from = " + ".join(found.parents) or "hub id, folder or the embedded world"
        on = f" on {', '.join(DATASETS[name].title for name in found.datasets)}" if found.datasets else ""
        tables = f"  [{', '.join(f'Table {number}' for number in sorted(found.rows))}]" if found.rows else ""
        names = [f"also {alias}" for alias, name in ALIASES.items() if name == found.name]
        also = f"  ({', '.join(names)})" if names else ""
        lines.append(f"{found.name:<25} {found.stage:<18} {made_from}{on}{tables}{also}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
