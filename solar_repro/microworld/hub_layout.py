"""Writing a data set in hub layout: a README that names configurations and splits, and a file per split."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from solar_repro.errors import UserError

LIST = pa.list_(pa.string())
CHOICES = pa.struct([("choices", LIST), ("labels", pa.list_(pa.int64()))])
CONVERSATION = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def strings(*columns: str) -> pa.Schema:
    """A schema of string columns."""
    return pa.schema([(column, pa.string()) for column in columns])


SCHEMAS = {
    "solar-repro/microworld": strings("text"),
    "vicgalle/alpaca-gpt4": strings("instruction", "input", "output", "text"),
    "Open-Orca/OpenOrca": strings("id", "system_prompt", "question", "response", "task_name"),
    "meta-math/MetaMathQA": strings("query", "response", "type", "original_question"),
    "EleutherAI/hendrycks_math": strings("problem", "level", "type", "solution", "answer"),
    "allenai/ultrafeedback_binarized_cleaned": pa.schema(
        [("prompt", pa.string()), ("chosen", CONVERSATION), ("rejected", CONVERSATION)]
    ),
    "Intel/orca_dpo_pairs": strings("system", "question", "chosen", "rejected"),
    "allenai/ai2_arc": pa.schema(
        [
            ("id", pa.string()),
            ("question", pa.string()),
            ("choices", pa.struct([("text", LIST), ("label", LIST)])),
            ("answerKey", pa.string()),
        ]
    ),
    "Rowan/hellaswag": pa.schema(
        [
            ("ind", pa.int64()),
            *((name, pa.string()) for name in ("activity_label", "ctx_a", "ctx_b", "ctx")),
            ("endings", LIST),
            *((name, pa.string()) for name in ("label", "split", "source_id", "split_type")),
        ]
    ),
    "cais/mmlu": pa.schema(
        [("question", pa.string()), ("subject", pa.string()), ("choices", LIST), ("answer", pa.int64())]
    ),
    "truthfulqa/truthful_qa": pa.schema(
        [("question", pa.string()), ("mc1_targets", CHOICES), ("mc2_targets", CHOICES)]
    ),
    "allenai/winogrande": strings("sentence", "option1", "option2", "answer"),
    "openai/gsm8k": strings("question", "answer"),
}


def write_dataset(
    mirror: Path, hub_id: str, configs: Mapping[str, Mapping[str, Iterable[dict]]], about: str
) -> dict[str, int]:
    """Write the rows of each configuration and split to `mirror/<hub_id>/`; their numbers by `config/split`.

    `datasets.load_dataset(mirror / hub_id, config)` reads the folder offline. The same rows give the same
    bytes. File names end in a digest of their content, as in older sets of the hub: `datasets` names its
    cache by the README alone, and would give the rows of a first mirror for a second one with equal file
    names. Raises UserError where the folder exists.
    """
    folder, counts, header = mirror / hub_id, {}, ["---", "configs:"]
    if folder.exists():
        raise UserError(f"{folder} exists already: give write_mirror a new folder, or remove that one")
    for config, splits in configs.items():
        header += [f"- config_name: {config}", "  data_files:"]
        place = "data" if config == "default" else config
        (folder / place).mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            table = pa.Table.from_pylist(list(rows), schema=SCHEMAS[hub_id])
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            content = sink.getvalue().to_pybytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            name = f"{place}/{split}-00000-of-00001-{digest}.parquet"
            (folder / name).write_bytes(content)
            header += [f"  - split: {split}", f"    path: {name}"]
            counts[f"{config}/{split}"] = table.num_rows
    (folder / "README.md").write_text("\n".join([*header, "---", "", f"# {hub_id}", "", about, ""]))
    return counts
