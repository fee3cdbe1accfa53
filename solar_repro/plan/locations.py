"""Where the data sets of a plan lie, and the digests that stand for their content in its keys."""

import re
from collections.abc import Callable, Iterable
from functools import cached_property

from solar_repro.data.benchmark_sets import table_8_fingerprints
from solar_repro.data.locate import fingerprint, locate, text_location
from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import H6_BENCHMARKS, H6_NAMES
from solar_repro.plan.step import UNKNOWN, Step
from solar_repro.scales.settings import Data

Digests = dict[str, str]
"""Digest of the content of a data set by its id."""


class Locations:
    """The data sets of a scale. Each is looked for when it is first asked for, and once."""

    def __init__(self, section: Data, embedded: Callable[[], Step] | None, *, dry: bool) -> None:
        """`embedded` gives the step that writes the embedded world, where that has the sets.

        With `dry`, `unreachable` notes what the hub did not answer; keys that depend on it are void.
        """
        self.hub_sets: set[str] = set()
        """Data sets that come from the hub."""
        self.unreachable: dict[str, str] = {}
        """Hub id → why its revision is not known; of a dry plan alone."""
        self._section = section
        self._embedded = embedded
        self._dry = dry
        self._found: dict[tuple[str, str | None], tuple[str, Digests]] = {}

    def data_set(self, hub_id: str, stand_in: str | None = None) -> tuple[str, Digests]:
        """The id that is used, and its digest (the embedded world's key speaks for its sets)."""
        if self._embedded:
            return hub_id, {hub_id: f"microworld:{self._embedded().key}"}
        if (hub_id, stand_in) not in self._found:  # most steps ask for the same sets
            self._found[hub_id, stand_in] = self._look_for(hub_id, stand_in)
        return self._found[hub_id, stand_in]

    def _look_for(self, hub_id: str, stand_in: str | None) -> tuple[str, Digests]:
        try:
            location = locate(hub_id, self._section.mirror_folder, stand_in)
        except UserError as error:
            self.hub_sets.add(hub_id)
            return hub_id, self.unknown(hub_id, hub_id, error)
        if location.revision is not None:
            self.hub_sets.add(location.used)
        return location.used, {location.used: fingerprint(location)}

    def benchmarks(self, names: Iterable[str] = H6_NAMES) -> Digests:
        """Digests of the benchmarks of H6, or of some."""
        found: Digests = {}
        for benchmark in H6_BENCHMARKS:
            if benchmark.name in names:
                found |= self.data_set(benchmark.hub_id)[1]
        return found

    @cached_property
    def table_8(self) -> Digests:
        """Digests of those benchmarks of Table 8 that can be had (`table_8_fingerprints`)."""
        return table_8_fingerprints(
            self._section.mirror_folder, find=lambda hub_id: self.data_set(hub_id)[1][hub_id]
        )

    @cached_property
    def corpus(self) -> Digests:
        """Digest of the text of continued pretraining, a set or a folder.

        Of one that lies here, a split, a kind of file or a column that cannot be read is refused: UserError.
        """
        corpus, mirror = self._section.corpus, self._section.mirror_folder
        is_folder = corpus.id.startswith(("/", "."))
        if not is_folder and not (mirror and (mirror / corpus.id).is_dir()):
            return self.data_set(corpus.id)[1]
        from solar_repro.data.row_batches import require_columns  # plans of other texts do without PyArrow

        location = text_location(corpus.id, mirror)
        for split in (corpus.split, corpus.held_out_split):
            first, *_ = location.files(split)
            require_columns(first, [corpus.column], "name the text column")
        return {location.used: fingerprint(location)}

    def unknown(self, name: str, hub_id: str, error: UserError) -> Digests:
        """A dry plan's stand-in for the digest of a set or model that the hub did not tell."""
        if not self._dry or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", hub_id):
            raise error
        found = re.search(r"fetched from the hub \((.*)\);", str(error))
        self.unreachable[hub_id] = found[1] if found else str(error)
        return {name: UNKNOWN}
