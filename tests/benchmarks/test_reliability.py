"""The fault campaign's own checks find what they look for."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from benchmarks import fault_processes
from benchmarks.fault_processes import GROUP, USERS, PlanProcess, Worker, workers
from benchmarks.reliability import compared, contents, left_open, undisturbed_for
from solar_repro.errors import UserError
from solar_repro.store.manifest import write_manifest
from solar_repro.store.publish import replace_folder


def test_a_result_with_other_bytes_or_none_is_a_difference(finished, tmp_path):
    for name in ("sft_v1", "dpo_v1", "merge_v1"):
        shutil.copytree(finished.folder(name), tmp_path / finished.folder(name).name)
    expected = contents(tmp_path)
    assert len(expected) == 3
    assert all("model.safetensors" in files for files in expected.values())
    assert compared(expected, contents(tmp_path)) == []
    changed, gone = finished.folder("sft_v1").name, finished.folder("dpo_v1").name
    (tmp_path / changed / "config.json").write_text("{}")
    (tmp_path / changed / "manifest.json").unlink()
    write_manifest(tmp_path / changed)
    shutil.rmtree(tmp_path / gone)
    assert compared(expected, contents(tmp_path)) == sorted([f"{changed}: differs", f"{gone}: differs"])


def test_a_run_left_open_and_a_step_made_twice_are_found(place):
    results = len(contents(place.store))
    assert left_open(place.tracking_uri, results) == []
    (run,) = [run for run in place.runs() if run.info.run_name == "sft_v1"]
    client = place.client()
    client.create_run(
        run.info.experiment_id, run_name="again", tags={"solar.key": run.data.tags["solar.key"]}
    )
    assert left_open(place.tracking_uri, results) == ["again: left open"]
    assert left_open(place.tracking_uri, results + 1)[-1].endswith(f"{results + 1} results")


@pytest.mark.parametrize("sharing", ["users", "containers"])
def test_a_machine_that_does_not_allow_it_says_so(sharing, monkeypatch, capsys):
    monkeypatch.setattr(fault_processes, "CONTAINER", ("false",))
    if sharing == "users":
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(SystemExit) as ended:
        workers(sharing)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"--sharing {sharing} cannot be tried here: ")
    assert told.count("\n") == 1


def test_one_worker_is_the_process_itself():
    assert workers("none") == [Worker()]


def _said_by(worker, script, home):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    try:
        process = worker.popen([sys.executable, "-c", script], home, **pipes)
    except OSError as error:
        pytest.skip(f"not allowed here: {error}")
    said, error = process.communicate()
    if process.returncode:
        pytest.skip(f"not allowed here: {error.strip().splitlines()[-1]}")
    return said.split()


def test_two_containers_have_one_host_name_and_equal_process_numbers(tmp_path):
    script = "import os, socket; print(socket.gethostname(), os.getpid(), os.readlink('/proc/self/ns/pid'))"
    if os.geteuid():
        pytest.skip("containers want root")
    one, other = (_said_by(Worker(prefix=fault_processes.CONTAINER), script, tmp_path) for _ in range(2))
    assert one[:2] == other[:2]
    assert one[2] != os.readlink("/proc/self/ns/pid")


def test_a_user_has_its_own_number_and_umask():
    if os.geteuid():
        pytest.skip("other users want root")
    script = "import os; print(os.getuid(), os.getgid(), os.umask(0), os.environ['HOME'])"
    with tempfile.TemporaryDirectory() as home:
        said = _said_by(Worker(user=USERS[0]), script, Path(home))
        assert said == [str(USERS[0]), str(GROUP), str(0o022), home]


def test_a_plan_that_ends_is_noticed_and_one_that_goes_on_too(tmp_path):
    quick, long = (
        PlanProcess(tmp_path, Worker(), Worker().popen([sys.executable, "-c", script], tmp_path))
        for script in ("pass", "import signal; signal.pause()")
    )
    try:
        assert not undisturbed_for([quick, long], None)
        assert undisturbed_for([quick, long], 0.01)
    finally:
        long.process.kill()
        long.process.wait()


def test_a_worker_that_waits_for_another_loses_nothing(tmp_path):
    said = ["[ 1/47] base  running", "[ 2/47] sft_v1  waiting for process 7"]
    script = f"import sys; sys.stderr.write({chr(10).join(said)!r})"
    process = Worker().popen([sys.executable, "-c", script], tmp_path, stderr=subprocess.PIPE, text=True)
    plan = PlanProcess(tmp_path, Worker(), process, safe=0.0)
    plan._listen()
    process.wait()
    assert plan.waits
    assert plan.lost() == 0.0


def write_report(out, text):
    with replace_folder(out) as work:
        (work / "compare.html").write_text(text)


def test_a_report_is_replaced_whoever_made_it(tmp_path):
    """Many at once in a group's folder: one of them lies there in the end, for all to replace."""
    tmp_path.chmod(0o770)
    out = tmp_path / "check"
    writers = [threading.Thread(target=write_report, args=(out, f"{n}")) for n in range(20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (out / "compare.html").read_text() in {f"{n}" for n in range(20)}
    assert out.stat().st_mode & 0o070 == 0o070
    assert (out / "compare.html").stat().st_mode & 0o060 == 0o060


def test_a_report_that_may_not_be_replaced_is_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match="another user's, not to be replaced"):
        write_report(tmp_path / "check", "new")
