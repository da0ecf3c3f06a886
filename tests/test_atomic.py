"""nanogfl.atomic: whole or not at all, links kept, devices and pipes written to as they are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanogfl.atomic import atomic_file, write_json


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_file(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and path.read_text() == "old"


@pytest.mark.parametrize("there", [True, False], ids=["an old file", "not yet a file"])
def test_a_link_stays_and_its_file_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real.json", tmp_path / "link.json"
    if there:
        real.write_text("old")
    link.symlink_to("disk/real.json")
    write_json(link, [1])
    assert link.is_symlink() and real.read_text() == "[\n 1\n]"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["disk", "link.json", "real.json"]


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    """As root, it could be replaced by a file: then every program of the machine writes into that."""
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    write_json(link, [1])
    assert link.is_symlink() and Path("/dev/null").is_char_device()
    assert [p.name for p in tmp_path.iterdir()] == ["null"]


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"a": 1})
    reader.join(30)
    assert read == ['{\n "a": 1\n}'] and pipe.is_fifo()


def test_a_full_disk_is_told_with_the_files_name(tmp_path: Path) -> None:
    """The system's error of a write has none."""
    with pytest.raises(OSError, match="No space left") as caught, atomic_file(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a") and not any(tmp_path.iterdir())


def test_a_full_device_is_told_with_its_name() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        write_json(Path("/dev/full"), {"a": 1})
    assert caught.value.filename == "/dev/full" and Path("/dev/full").is_char_device()


def test_the_output_of_a_command_may_be_a_pipe() -> None:
    code = "from pathlib import Path; from nanogfl.atomic import write_json; write_json(Path('/dev/stdout'), [1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[\n 1\n]"
