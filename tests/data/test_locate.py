import shutil
from fnmatch import fnmatch

import pyarrow.parquet as pq
import pytest

from solar_repro.data.benchmark_sources import benchmark_source
from solar_repro.data.locate import fingerprint, folder_location, locate, pinned, text_location
from solar_repro.errors import UserError


def test_mirror_is_looked_in_first(write_set, mirror):
    folder = write_set("org/name", [{"text": "a"}])
    found = locate("org/name", mirror, stand_in="other/set")
    assert (found.folder, found.used, found.revision) == (folder, "org/name", None)


def test_stand_in_only_where_the_real_set_is_missing(write_set, mirror):
    other = write_set("other/set", [{"text": "a"}])
    found = locate("org/name", mirror, stand_in="other/set")
    assert (found.folder, found.hub_id, found.used) == (other, "org/name", "other/set")


def test_neither_mirror_nor_hub_names_both(mirror):
    with pytest.raises(UserError) as error:
        locate("org/name", mirror)
    assert "org/name" in str(error.value)
    assert str(mirror) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("hub_id", ["../etc", "a/..", "/etc/passwd", "name", "a/b/c", "a/b\n"])
def test_no_path_but_a_hub_id(hub_id, mirror):
    with pytest.raises(UserError, match="not a hub id"):
        locate(hub_id, mirror)


def test_hub_set_is_fetched_when_its_files_are_wanted(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_: type("Info", (), {"sha": "abc"}))
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *args, **kwargs: asked.append((args, kwargs)) or tmp_path
    )
    found = locate("org/name", None)
    assert (found.revision, asked) == ("abc", [])
    listed = ["README.md", "all.txt", "data/train-0.parquet"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: listed)
    assert found.folder == tmp_path
    wanted = ["README.md", "data/train-0.parquet"]  # the text file has the same rows again
    assert asked == [(("org/name",), {"repo_type": "dataset", "revision": "abc", "allow_patterns": wanted})]


@pytest.fixture
def hub(monkeypatch, write_set, tmp_path):
    """A hub that serves a set of two splits; the names that were fetched from it."""
    import huggingface_hub

    write_set("org/name", [{"text": "a"}])
    folder = write_set("org/name", [{"text": "b"}], "validation")
    fetched = set()

    def snapshot(repo_id, *, repo_type, revision, allow_patterns):
        for file in folder.rglob("*"):
            name = file.relative_to(folder).as_posix()
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                fetched.add(name)
                (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, tmp_path / "cache" / name)
        return tmp_path / "cache"

    listed = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    listed.append("../outside.parquet")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_: type("Info", (), {"sha": "abc"}))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: listed)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return fetched


def test_of_a_hub_set_the_files_of_a_split_alone_are_fetched(hub):
    found = locate("org/name", None)
    (file,) = found.files("validation")
    assert pq.read_table(file).column("text").to_pylist() == ["b"]
    assert hub == {"README.md", file.name}
    assert len(found.files("train")) == 1


def test_a_split_that_the_hub_lacks_is_named_with_those_it_has(hub):
    with pytest.raises(UserError, match=r"^data set org/name has no split 'test'; it has train, validation$"):
        locate("org/name", None).files("test")
    assert hub == {"README.md"}


def test_a_pinned_folder_that_has_changed_since_is_refused(write_set, mirror):
    folder = write_set("org/name", [{"text": "a"}])
    local = f"local/{folder.name}"
    pins = {"org/name": fingerprint(locate("org/name", mirror)), "other/set": "microworld:1", local: ""}
    pins[local] = pins["org/name"]
    write_set("other/set", [{"text": "a"}])
    with pinned(pins):
        assert locate("org/name", mirror).folder == text_location(str(folder), None).folder == folder
        write_set("org/name", [{"text": "b"}])
        write_set("other/set", [{"text": "b"}])
        locate("other/set", mirror)
        for read in (lambda: locate("org/name", mirror), lambda: text_location(str(folder), None)):
            with pytest.raises(UserError, match="has changed since this plan was made; start the same"):
                read()
        with pytest.raises(UserError, match="has changed since"):
            benchmark_source("org/name", None, mirror)
    locate("org/name", mirror)


def test_of_a_pinned_hub_set_the_commit_of_the_key_is_read(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_: type("Info", (), {"sha": "new"}))
    with pinned({"org/name": "revision:old"}):
        assert locate("org/name", None).revision == "old"
        assert benchmark_source("org/name", "main", None)["revision"] == "old"
        assert locate("org/other", None).revision == "new"
    assert locate("org/name", None).revision == "new"


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        folder_location(tmp_path / "nowhere")


def test_text_of_a_set_or_of_a_folder(write_set, mirror, tmp_path):
    folder = write_set("org/name", [{"text": "a"}])
    assert text_location("org/name", mirror).used == "org/name"
    assert text_location(str(folder), None).folder == folder
    with pytest.raises(UserError, match="does not exist"):
        text_location("./nowhere", mirror)
