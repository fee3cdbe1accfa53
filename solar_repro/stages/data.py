"""One set of Table 1 by itself: loaded, filtered, tokenised, compared with the benchmarks, reported."""

from pathlib import Path
from typing import Any

from solar_repro.data.prepare import prepare
from solar_repro.data.templates import set_chat_template
from solar_repro.stages import Log
from solar_repro.stages.tuning_data import location_of
from solar_repro.variants import DATASETS


def run(
    out: Path,
    log: Log,
    *,
    model: Path,
    dataset: dict[str, Any],
    template: str,
    max_length: int,
    seed: int,
    mirror: Path | None,
    synth_math: Path | None = None,
) -> None:
    """Write the set's data card to `out`; `model` gives the tokenizer, the log gets the counts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    set_chat_template(tokenizer, template)
    name = dataset["name"]
    part = "instruct" if DATASETS[name].stage == "instruction" else "alignment"
    location = location_of(dataset, mirror, synth_math and synth_math / part)
    counts = prepare(
        out,
        name,
        location,
        tokenizer,
        max_samples=dataset["maximum_samples"],
        max_length=max_length,
        seed=seed,
        mirror=mirror,
    )
    log({f"data/{name}/{figure}": value for figure, value in counts.items()})
