"""Packed text as a result: Arrow files of blocks, which trainings map into memory, and a report."""

import os
import shutil
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from solar_repro.checkpoint.tokenizer import tokenizer_digest
from solar_repro.data.report import RowReport
from solar_repro.errors import UserError
from solar_repro.safety.json_files import read_json, write_json

FILE = "packed.json"


def write_packed_text(
    out: Path, blocks: Dataset, report: RowReport, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Put the files of packed blocks and the report of packing into `out`.

    The files are linked, not copied, if they lie on the same disk.
    """
    for number, file in enumerate(blocks.cache_files):
        place = out / f"blocks-{number:05}.arrow"
        try:
            os.link(file["filename"], place)
        except OSError:  # another disk, or one without links
            shutil.copyfile(file["filename"], place)
    digest = tokenizer_digest(tokenizer, chat_template=False)
    write_json(out / FILE, {"tokenizer": digest, "report": report})


def read_packed_text(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, RowReport]:
    """Return blocks (`input_ids`, `seq_lengths`), mapped into memory, and the report of their packing.

    Raises UserError if the text was packed with another tokenizer.
    """
    told = read_json(folder / FILE)
    if told.get("tokenizer") != tokenizer_digest(tokenizer, chat_template=False):
        raise UserError(
            f"{folder}: was packed with another tokenizer than that of the model to be trained; a model that "
            "is made from the base must keep the base's tokenizer"
        )
    files = sorted(folder.glob("blocks-*.arrow"))
    return concatenate_datasets([Dataset.from_file(str(file)) for file in files]), told["report"]


def corpus_figures(report: RowReport) -> dict[str, int]:
    """Return what runs log of a report of packing."""
    dropped = sum(report["dropped"].values())
    return {"documents": report["documents"], "tokens": report["tokens"], "dropped": dropped}
