"""Where a benchmark's rows lie: a folder of a local mirror, else the hub."""

import functools
import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from solar_repro.data.hub_card import read_card
from solar_repro.errors import UserError
from solar_repro.safety.regular_files import refuse_foreign_links
from solar_repro.store.fingerprint import folder_fingerprint


def benchmark_source(hub_id: str, config: str | None, mirror: Path | None) -> dict[str, Any]:
    """Arguments of `datasets.load_dataset` for one configuration (None: the only one) of a benchmark.

    For a mirror the files themselves are named, and the name of the configuration is that of the content:
    `datasets` keeps what it has read under the folder's last name and the README's patterns alone, or under
    paths and times of modification, so that a second mirror, or one that changed, would silently give the
    first one's rows.

    Raises UserError where the mirror has the benchmark but not this configuration.
    """
    if mirror is None or not in_mirror(hub_id, mirror):
        return {"path": hub_id, "name": config}
    folder = Path(mirror, hub_id)
    configs = mirror_configs(folder)
    name = config if config is not None else next(iter(configs), None)
    if name not in configs:
        raise UserError(f"{folder / 'README.md'}: no configuration {name!r}; list its files under `configs`")
    digest = folder_fingerprint(folder).removeprefix("sha256:")[:16]
    return {"path": "parquet", "name": digest, "data_files": configs[name]}


def in_mirror(hub_id: str, mirror: Path | None) -> bool:
    """Whether a mirror holds this data set; otherwise it comes from the hub."""
    return mirror is not None and Path(mirror, hub_id).is_dir()


def mirror_configs(folder: Path) -> Mapping[str, dict[str, list[str]]]:
    """Files by split of each configuration of a mirrored data set, from its README's `configs`."""
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
                    files.setdefault(part["split"], []).extend(found)
            configs[entry["config_name"]] = files
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{readme}: `configs` not readable ({type(error).__name__}: {error}); see the hub's"
        ) from error
    return configs
