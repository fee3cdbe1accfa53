"""The measurement of a second start counts what is read, in full where all is asked for."""

from pathlib import Path

import pytest

from benchmarks.performance import second_start
from solar_repro.store import fingerprint


def test_only_the_first_start_and_a_full_check_read_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(second_start.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(fingerprint, "SETTLED_NS", -(10**18))
    second_start.main(["--folder", str(tmp_path), "--gigabytes", "0.02"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[3:]]
    read = {name: int(number.replace(",", "")) for name, number in rows}
    assert list(read) == ["first", "second", "third", "with -P verify=full"]
    assert min(read["first"], read["with -P verify=full"]) >= 20_000_000
    assert max(read["second"], read["third"]) < 100_000
