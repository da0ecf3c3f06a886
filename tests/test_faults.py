"""Bad days of a run, each with a real process: full and locked disks, two runs in one place, files that go."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from runs import read_rows
from test_interrupt import PATIENCE_S, SMALL, Command, goes_on, only_error

from nanogfl.atomic import atomic_file
from nanogfl.errors import UsageError
from nanogfl.training import folder as folders
from nanogfl.training.folder import Folder

Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small disk with these options; again with others to change it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        again = ["-o", f"remount,{options}"] if place.is_mount() else ["-o", options]
        done = subprocess.run(["mount", "-t", "tmpfs", *again, "tmpfs", place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mounting a small disk needs root")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "-l", place], check=True)


def ended(folder: Path, *arguments: object) -> tuple[int, str]:
    """Exit code of a command and all that it said."""
    command = Command(folder, *arguments)
    return command.process.wait(PATIENCE_S), command.said.read_text()


def train(data: Path, out: Path, folder: Path, *more: object) -> tuple[int, str]:
    """The same of a small run."""
    return ended(folder, "train", data, "--out", out, *SMALL, *more)


@pytest.mark.slow
def test_a_full_disk_ends_a_training_that_goes_on_once_there_is_room(
    disk: Disk, tiny_set: Path, tmp_path: Path
) -> None:
    out = disk("size=5m") / "run"
    code, said = train(tiny_set, out, tmp_path, "--epochs", 2)
    assert code == 1
    assert "no space left" in only_error(said) and "--resume" in said
    assert not list(out.glob("*.partial"))
    for kept in out.glob("*.ckpt"):
        torch.load(kept, weights_only=True)
    disk("size=200m")
    code, said = train(tiny_set, out, tmp_path, "--epochs", 2, "--resume")
    assert code == 0, said
    assert json.loads((out / "summary.json").read_text())["epochs"] == 2


@pytest.mark.slow
def test_a_full_disk_keeps_no_half_export(disk: Disk, tiny_run: Path, tmp_path: Path) -> None:
    out = disk("size=300k") / "model.onnx"
    code, said = ended(tmp_path, "export", tiny_run / "best.ckpt", "--out", out)
    assert code == 1
    assert "space" in only_error(said).lower()
    assert not list(out.parent.iterdir())


@pytest.mark.slow
def test_a_full_disk_keeps_no_half_report(disk: Disk, tiny_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    out = disk("size=100k") / "report"
    code, said = ended(tmp_path, "eval", tiny_run / "best.ckpt", tiny_set, "--report", out)
    assert code == 1
    assert "space" in only_error(said).lower()
    assert not list(out.rglob("*.partial")) and not (out / "report.html").exists()


@pytest.mark.slow
def test_a_full_disk_keeps_no_half_download(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, files = disk("size=300k") / "cache", tmp_path / "files"
    files.mkdir()
    (files / "nanodet-plus-m_416_checkpoint.ckpt").write_bytes(bytes(2_000_000))
    monkeypatch.setenv("NANOGFL_CACHE", str(cache))
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(files))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        monkeypatch.setenv("NANOGFL_MIRROR", f"http://127.0.0.1:{server.server_address[1]}")
        code, said = ended(tmp_path, "export", "nanodet-plus-m_416", "--out", tmp_path / "model.onnx")
        server.shutdown()
    assert code == 1
    error = only_error(said)
    assert "space" in error.lower() and "NANOGFL_CACHE" in error
    assert not list(cache.iterdir())


def test_torchs_writer_on_a_full_disk_says_so(disk: Disk) -> None:
    path = disk("size=1m") / "a.ckpt"
    with pytest.raises(OSError, match="No space left") as caught, atomic_file(path) as partial:
        torch.save({"a": torch.zeros(1 << 20)}, partial)
    assert caught.value.filename == str(path)
    assert not list(path.parent.iterdir())


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_done(
    disk: Disk, tiny_set: Path, tmp_path: Path
) -> None:
    out = disk("ro,size=1m") / "run"
    code, said = train(tiny_set, out, tmp_path, "--epochs", 1)
    assert code == 2
    assert "choose a writable folder" in only_error(said)


def test_two_runs_never_write_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "LEAVING_S", 0.3)
    first, second = (Folder(tmp_path / "run", resume=True) for _ in range(2))
    (tmp_path / "run").mkdir()
    first._hold()
    with pytest.raises(UsageError, match=r"in use by another run; wait, or choose another folder"):
        second._hold()
    first.leave()
    second._hold()
    second.leave()
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.slow
def test_a_second_run_is_sent_away_and_the_first_ends_well(tiny_set: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "run", tmp_path / "other"
    other.mkdir()
    first = Command(tmp_path, "train", tiny_set, "--out", out, *SMALL, "--epochs", 500)
    first.wait_for(out / "last.ckpt")
    code, said = train(tiny_set, out, other, "--epochs", 2, "--overwrite")
    assert code == 2
    assert "in use by another run" in only_error(said)
    assert first.process.poll() is None
    first.end(signal.SIGINT)
    goes_on(out, tiny_set, int(read_rows(out)[-1]["epoch"]) + 2)


@pytest.mark.slow
def test_a_loader_process_that_is_killed_is_named(tiny_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = Command(tmp_path, "train", tiny_set, "--out", out, *SMALL, "--epochs", 500, "--set", "train.workers=1")
    run.wait_for(out / "last.ckpt")
    loaders = subprocess.run(["pgrep", "-P", str(run.process.pid)], capture_output=True, text=True, check=True)
    for loader in loaders.stdout.split():
        os.kill(int(loader), signal.SIGKILL)
    assert run.process.wait(PATIENCE_S) == 1
    error = only_error(run.said.read_text())
    assert "loader process died" in error and "--resume" in error
    torch.load(out / "last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True], ids=["deleted", "cut off"])
def test_a_picture_that_goes_during_training_is_named(cut: bool, tiny_set: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "set", tmp_path / "run"
    shutil.copytree(tiny_set, data)
    run = Command(tmp_path, "train", data, "--out", out, *SMALL, "--epochs", 500, "--set", "train.cache=none")
    run.wait_for(out / "last.ckpt")
    time.sleep(0.2)
    gone = sorted((data / "images").rglob("*.*"))
    for picture in gone:
        os.truncate(picture, 40) if cut else picture.unlink()
    assert run.process.wait(PATIENCE_S) == 1
    error = only_error(run.said.read_text())
    assert any(picture.name in error for picture in gone), error
    torch.load(out / "last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to read memory from")
def test_a_training_that_is_short_of_memory_says_what_to_lower_and_goes_on(tiny_set: Path, tmp_path: Path) -> None:
    short = (
        "import os, resource\nos.environ['MALLOC_TOP_PAD_'] = '0'\n"  # else a step's memory is kept for the next
        "from nanogfl.training.task import DetectionTask\noriginal = DetectionTask.training_step\n"
        "def step(task, batch, i):\n"
        "    if task.current_epoch == 1 and i == 0:\n"
        "        pages = int(open('/proc/self/statm').read().split()[0])\n"
        "        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (8 << 20),) * 2)\n"
        "    return original(task, batch, i)\nDetectionTask.training_step = step"
    )
    out = tmp_path / "run"
    options = ["--size", "s", "--input", 320, "--batch", 24, "--set", "train.workers=0", "--set", "train.cache=none"]
    run = Command(tmp_path, "train", tiny_set, "--out", out, *options, "--epochs", 3, before=short)
    assert run.process.wait(PATIENCE_S) == 1
    error = only_error(run.said.read_text())
    assert "out of memory" in error and "--batch" in error and "--resume" in error
    goes_on(out, tiny_set, 3)
