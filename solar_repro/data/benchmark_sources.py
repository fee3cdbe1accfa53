"""How `datasets` reads a benchmark: from the files of a local mirror, else from the hub."""

import functools
import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from solar_repro.data.hub_card import read_card
from solar_repro.data.locate import mirror_folder, pinned_commit, refuse_changed
from solar_repro.errors import UserError
from solar_repro.safety.regular_files import refuse_foreign_links, refuse_hidden
from solar_repro.store.fingerprint import CONTENT, folder_fingerprint


def benchmark_source(hub_id: str, config: str | None, mirror: Path | None) -> dict[str, Any]:
    """Arguments of `datasets.load_dataset` for one configuration of a benchmark; None means its only one.

    For a mirror the files themselves are named, and the configuration is named by their content. `datasets`
    keeps what it has read under the folder's last name and the README's patterns, or under paths and times of
    modification: a second mirror, or one that changed, would silently give the first one's rows.

    Raises UserError where the mirror has the benchmark but not this configuration.
    """
    folder = mirror_folder(hub_id, mirror)
    if folder is None:
        commit = pinned_commit(hub_id)
        return {"path": hub_id, "name": config} | ({"revision": commit} if commit else {})
    configs = mirror_configs(folder)
    name = config if config is not None else next(iter(configs), None)
    if name not in configs:
        raise UserError(f"{folder / 'README.md'}: no configuration {name!r}; list its files under `configs`")
    content = folder_fingerprint(folder)
    refuse_changed(hub_id, folder, content)
    digest = content.removeprefix(CONTENT)[:16]
    return {"path": "parquet", "name": digest, "data_files": configs[name]}


def mirror_configs(folder: Path) -> Mapping[str, dict[str, list[str]]]:
    """The files of each configuration of a mirrored data set, by split, as its README's `configs` lists them.

    The card is read here, for `datasets` would make a builder for each of MMLU's 57 subjects. Raises
    UserError for a README that is missing or cannot be read, and for files that are missing or lie outside
    the folder.
    """
    readme = folder / "README.md"
    refuse_foreign_links(folder)
    if not readme.is_file():
        raise UserError(
            f"{readme}: missing; it must list the data set's files under `configs`, as on the hub"
        )
    return _read_configs(readme, folder_fingerprint(folder))


@functools.lru_cache(maxsize=64)
def _read_configs(readme: Path, _content: str) -> Mapping[str, dict[str, list[str]]]:
    configs = {}
    try:
        for entry in read_card(readme.parent).get("configs", []):
            files: dict[str, list[str]] = {}
            for part in entry["data_files"]:
                patterns = [part["path"]] if isinstance(part["path"], str) else part["path"]
                for pattern in patterns:
                    found = sorted(glob.glob(str(readme.parent / pattern)))
                    if not found:
                        raise UserError(
                            f"{readme}: no file {pattern!r} in {readme.parent}; correct `configs`"
                        )
                    root = os.path.abspath(readme.parent)
                    if not all(Path(os.path.abspath(file)).is_relative_to(root) for file in found):
                        raise UserError(f"{readme}: {pattern!r} lies outside its folder; correct `configs`")
                    for file in found:
                        refuse_hidden(Path(file), readme.parent)
                    files.setdefault(part["split"], []).extend(found)
            configs[entry["config_name"]] = files
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{readme}: `configs` not readable ({type(error).__name__}: {error}); see the hub's"
        ) from error
    return configs
