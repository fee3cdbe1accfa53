"""Benchmarks of a mirror: their files are those of their own folders."""

from pathlib import Path

import pytest

from solar_repro.data.benchmark_sources import mirror_configs
from solar_repro.errors import UserError

CARD = """---
configs:
- config_name: default
  data_files:
  - split: test
    path: {path}
---
"""


@pytest.mark.parametrize("path", ["../other/test.parquet", "../*/test.parquet", "{absolute}"])
def test_a_card_that_names_files_elsewhere_is_refused(path: str, tmp_path: Path) -> None:
    for name in ("set", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.parquet").write_bytes(b"")
    path = path.format(absolute=tmp_path / "other" / "test.parquet")
    (tmp_path / "set" / "README.md").write_text(CARD.format(path=path))
    with pytest.raises(UserError, match="outside the folder"):
        mirror_configs(tmp_path / "set")
    (tmp_path / "set" / "README.md").write_text(CARD.format(path="t*.parquet"))
    for hidden in (".h/test.parquet", ".test.parquet"):
        (tmp_path / "set" / ".h").mkdir(exist_ok=True)
        (tmp_path / "set" / hidden).write_bytes(b"")
        (tmp_path / "set" / "README.md").write_text(CARD.format(path=hidden))
        with pytest.raises(UserError, match="which is hidden; rename the file"):
            mirror_configs(tmp_path / "set")
    (tmp_path / "set" / "README.md").write_text(CARD.format(path="t*.parquet"))
    assert mirror_configs(tmp_path / "set") == {"default": {"test": [str(tmp_path / "set" / "test.parquet")]}}
