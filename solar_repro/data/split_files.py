"""The data files of a split of a data set in hub layout, each of a kind that can be read here.

`datasets` lists them as it would for its own use; it is imported only then, for the plan of a run needs this
module and shall not wait for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from solar_repro.data.hub_card import read_card
from solar_repro.data.text_rows import COMPRESSIONS, open_bytes
from solar_repro.errors import UserError
from solar_repro.safety.redact import one_line
from solar_repro.safety.regular_files import refuse_foreign_links, refuse_hidden

KINDS = {".parquet": "parquet", ".txt": "txt", **dict.fromkeys([".jsonl", ".json", ".ndjson"], "json")}


def data_files(folder: Path, split: str, config: str | None = None) -> list[Path]:
    """Files of a split in a folder of hub layout; those of all configurations, in order, if `config` is None.

    Raises UserError for a configuration or split that is not there (it names the ones that are), for a file
    of a kind that cannot be read here, for a hidden one, and for a link that leaves the folder.
    """
    import datasets

    refuse_foreign_links(folder)
    read_card(folder)
    with _listed(folder):
        configs = datasets.get_dataset_config_names(str(folder))
    if config is not None and config not in configs:
        raise UserError(f"data set {folder} has no config {config!r}; it has {', '.join(configs)}")
    found: list[Path] = []
    splits: list[str] = []
    for name in [config] if config else configs:
        with _listed(folder):
            files = datasets.load_dataset_builder(str(folder), name).config.data_files or {}
        splits += [str(known) for known in files if str(known) not in splits]
        found += [Path(file) for file in files.get(split, [])]
    if not found:
        raise UserError(
            f"data set {folder} has no split {split!r}; it has {', '.join(splits) or 'no data files'}"
        )
    missing = [file for file in found if not file.is_file()]
    if missing:
        raise UserError(
            f"data set {folder}: its README names {missing[0]}, which does not exist; copy the file there"
        )
    for file in found:
        refuse_hidden(file, folder)
        require_readable(file)
    return found


@contextmanager
def _listed(folder: Path) -> Iterator[None]:
    """Turn whatever keeps `datasets` from listing a folder's files into a UserError."""
    try:
        yield
    except Exception as error:  # whatever a malformed card makes it stumble over
        if isinstance(error, ValueError) and not (folder / "README.md").exists():  # files of several kinds
            raise UserError(f"data set {folder}: {one_line(str(error))[:300]}; mend it") from None
        reason = f"{one_line(str(error))[:300]}; " if (folder / "README.md").exists() else ""
        raise UserError(
            f"data set {folder} has no data files; {reason}give a folder of parquet, jsonl or txt files"
        ) from None


def kind_of(file: Path) -> str | None:
    """`parquet`, `json` or `txt`, by the name without a compression's suffix; None for any other kind."""
    if file.suffix not in COMPRESSIONS:
        return KINDS.get(file.suffix)
    inner = KINDS.get(Path(file.stem).suffix)
    return None if inner == "parquet" else inner


def require_readable(file: Path) -> None:
    """UserError for a file of a kind that cannot be read here, and for text in UTF-16 or UTF-32."""
    kind = kind_of(file)
    if kind is None:
        suffixes = "".join(file.suffixes[-2:] if file.suffix in COMPRESSIONS else file.suffixes[-1:])
        raise UserError(
            f"data file {file}: {suffixes or 'no suffix'} cannot be read; use parquet, jsonl or txt, the "
            "last two also as .gz, .bz2 or .zst"
        )
    if kind == "parquet":
        return
    with open_bytes(file) as source:
        start = source.read(4)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
        raise UserError(
            f"data file {file} begins as UTF-16 or UTF-32 text does; convert it: iconv -f utf-16 -t utf-8"
        )
