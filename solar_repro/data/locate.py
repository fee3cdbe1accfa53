"""Where a data set is found: in the local mirror, else on the hub.

The hub's client is imported where it is used, for most plans find all sets in a mirror and need not wait for
it.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from solar_repro.data.split_files import data_files, require_readable
from solar_repro.errors import UserError
from solar_repro.safety.regular_files import refuse_foreign_links
from solar_repro.store.fingerprint import CONTENT, folder_fingerprint
from solar_repro.store.hub import REVISION, dataset_files, hub_commit, hub_snapshot

CARD = "README.md"
_pins: Mapping[str, str] | None = None
"""Digest by id of the sets that may be read, while `pinned` holds; else None."""


@dataclass(frozen=True)
class Location:
    """A data set that was found: a folder in hub layout, with a README.md that names its data files."""

    hub_id: str
    """The set that was asked for."""
    used: str
    """The set that is read: `hub_id`, or its stand-in."""
    path: Path | None
    """The folder in the mirror; None for a set of the hub."""
    revision: str | None = None
    """Commit of the hub's repository; None for a folder of the mirror."""

    @cached_property
    def folder(self) -> Path:
        """The folder with its files; those of the hub that are read are downloaded into its cache."""
        return self.path or self._downloaded(self._names)

    def files(self, split: str, config: str | None = None) -> list[Path]:
        """Files of a split, as `data_files`; of a set of the hub they and its card alone are downloaded."""
        if self.path is not None:
            return data_files(self.path, split, config)
        with TemporaryDirectory() as temporary:
            listed = Path(temporary, self.hub_id)
            for name in self._names:
                (listed / name).parent.mkdir(parents=True, exist_ok=True)
                (listed / name).touch()
            if CARD in self._names:
                shutil.copyfile(self._downloaded([CARD]) / CARD, listed / CARD)
            try:
                names = [str(file.relative_to(listed)) for file in data_files(listed, split, config)]
            except UserError as error:
                raise UserError(str(error).replace(f"{temporary}/", "")) from None
        folder = self._downloaded([*names, CARD])
        refuse_foreign_links(folder)
        for name in names:
            require_readable(folder / name)
        return [folder / name for name in names]

    @cached_property
    def _names(self) -> list[str]:
        """Names of the files that the hub has and that are read."""
        names = dataset_files(self.hub_id, self.revision, _not_found(self.hub_id, None))
        return [name for name in names if ".." not in PurePosixPath(name).parts and not name.startswith("/")]

    def _downloaded(self, names: list[str]) -> Path:
        """The folder in the hub's cache, with at least these files."""
        patterns = [escape(name) for name in names]
        message = _not_found(self.hub_id, None)
        return hub_snapshot(self.hub_id, "dataset", message, self.revision, patterns)


@contextmanager
def pinned(digests: Mapping[str, str]) -> Iterator[None]:
    """Inside the block, sets are read as their digests say: of the hub that commit, of a folder that content.

    So what a step reads is what its key names, however long ago the plan was made. A folder that has changed
    since is a UserError. Other digests than `fingerprint`'s (the embedded world's) pin nothing.
    """
    global _pins
    before, _pins = _pins, digests
    try:
        yield
    finally:
        _pins = before


def is_left_out(hub_id: str) -> bool:
    """Whether the sets that may be read are known, and a hub id is not among them."""
    return _pins is not None and hub_id not in _pins


def pinned_commit(hub_id: str) -> str | None:
    """The commit that is read of a set of the hub; None where none is pinned."""
    pin = (_pins or {}).get(hub_id, "")
    return pin.removeprefix(REVISION) if pin.startswith(REVISION) else None


def refuse_changed(name: str, folder: Path, content: str | None = None) -> None:
    """Raise UserError for a folder whose content is not the one that is pinned for its name.

    `content` is the folder's fingerprint, where it is known already.
    """
    pin = (_pins or {}).get(name, "")
    if pin.startswith((CONTENT, REVISION)) and (content or folder_fingerprint(folder)) != pin:
        raise UserError(
            f"data set {name}: {folder} has changed since this plan was made; start the same command again"
        )


def mirror_folder(hub_id: str, mirror: Path | None) -> Path | None:
    """The folder `<org>/<name>` in which a mirror holds a data set; None where it does not, or is None."""
    folder = mirror and Path(mirror, hub_id)
    return folder if folder and folder.is_dir() else None


def locate(hub_id: str, mirror: Path | None, stand_in: str | None = None) -> Location:
    """Find a data set: in the mirror, then its stand-in in the mirror, then on the hub.

    The hub is asked for the revision alone. Raises UserError, with set and mirror, where it is in neither.
    """
    for candidate in filter(None, (hub_id, stand_in)):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", candidate) or ".." in candidate:
            raise UserError(f"data set {candidate!r} is not a hub id; write it as <org>/<name>")
        if folder := mirror_folder(candidate, mirror):
            refuse_changed(candidate, folder)
            return Location(hub_id, candidate, folder)
    commit = pinned_commit(hub_id) or hub_commit(hub_id, "dataset", _not_found(hub_id, mirror))
    return Location(hub_id, hub_id, None, commit)


def _not_found(hub_id: str, mirror: Path | None) -> Callable[[str], str]:
    looked_in = f"not in the mirror {mirror}" if mirror else "no mirror is set (data.mirror)"
    return lambda reason: (
        f"data set {hub_id}: {looked_in}, and it could not be fetched from the hub ({reason}); "
        f"put it at <mirror>/{hub_id} or go online"
    )


def folder_location(folder: Path) -> Location:
    """The location of a folder that is no hub set: a stage's output, or a user's own texts."""
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist; give a folder of parquet, jsonl or txt files")
    name = f"local/{folder.name}"
    refuse_changed(name, folder)
    return Location(name, name, folder)


def text_location(name: str, mirror: Path | None) -> Location:
    """A set of mirror or hub, named by its id, or a user's own folder, named by a path from `/` or `.`."""
    return folder_location(Path(name)) if name.startswith(("/", ".")) else locate(name, mirror)


def fingerprint(location: Location, cache_dir: Path | None = None) -> str:
    """Name the content of a set: `sha256:…` over a folder's files, or `revision:…`, the commit of a hub set.

    Names and bytes of all files count but hidden ones. Each file's digest is remembered in `cache_dir`, so
    that a set is read once.
    """
    if location.revision is not None:
        return f"{REVISION}{location.revision}"
    return folder_fingerprint(location.folder, cache_dir)
