"""Plain text for continued pretraining, streamed in an order that a seed shuffles, resumable at any row."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from solar_repro.data.locate import Location
from solar_repro.data.report import RowReport, drop
from solar_repro.data.row_batches import read_batches, require_columns
from solar_repro.errors import UserError
from solar_repro.paper.data_sets import TEXT


class TextStream:
    """The texts of a split in an order that seed and epoch fix; they never end if `epochs` is None.

    The order of files is shuffled, and that of the rows within each batch; the batches of a file keep their
    order, so that memory holds one batch. A stream that is given the `state` of another continues with the
    text after that one's last. Damaged and blank rows are left out, counted and named (file and row) in
    `report`.
    """

    def __init__(
        self, files: list[Path], column: str, seed: int, epochs: int | None, state: dict | None
    ) -> None:
        self._files, self._column, self._seed, self._epochs = files, column, seed, epochs
        state = copy.deepcopy(state) or {"epoch": 0, "file": 0, "batch": 0, "row": 0, "report": {}}
        self.report: RowReport = {"dropped": {}, "examples": {}} | state.pop("report")
        self._at: dict[str, int] = state

    def after(self, state: dict[str, Any]) -> "TextStream":
        """A stream of the texts that follow `state`."""
        return TextStream(self._files, self._column, self._seed, self._epochs, state)

    @property
    def state(self) -> dict[str, Any]:
        """Where the stream is, as JSON values."""
        return copy.deepcopy(self._at | {"report": self.report})

    def __iter__(self) -> Iterator[str]:
        at = self._at
        while self._epochs is None or at["epoch"] < self._epochs:
            # Only an epoch walked from its start tells whether there is any text.
            found = any(at[place] for place in ("file", "batch", "row"))
            order = np.random.default_rng([self._seed, at["epoch"]]).permutation(len(self._files))
            while at["file"] < len(order):
                file, first = self._files[order[at["file"]]], 0
                for number, batch in enumerate(read_batches(file, {self._column: TEXT})):
                    first += batch.table.num_rows
                    if number < at["batch"]:
                        continue
                    seed = [self._seed, at["epoch"], at["file"], number]
                    texts = batch.table.column(0).to_pylist()
                    for place in np.random.default_rng(seed).permutation(len(texts))[at["row"] :]:
                        at["row"] += 1
                        if texts[place] and texts[place].strip():
                            found = True
                            yield texts[place]
                        else:
                            reason = batch.faults.get(int(place), "empty text")
                            drop(self.report, reason, f"{file.name} row {first - len(texts) + int(place)}")
                    at["batch"], at["row"] = number + 1, 0
                at["file"], at["batch"] = at["file"] + 1, 0
            if not found:
                raise UserError(
                    f"data file {self._files[0]}: no text in column {self._column!r}; name another column"
                )
            at["epoch"], at["file"] = at["epoch"] + 1, 0


def load_text(
    location: Location,
    split: str = "train",
    column: str = "text",
    *,
    seed: int = 0,
    epochs: int | None = 1,
    state: dict | None = None,
    config: str | None = None,
) -> TextStream:
    """The texts of a set or folder of parquet, jsonl or txt files (one document per line) as a `TextStream`.

    Raises UserError for a split, a configuration or a column that is not there.
    """
    files = location.files(split, config)
    for file in files:
        require_columns(file, [column], "name the text column")
    return TextStream(files, column, seed, epochs, state)
