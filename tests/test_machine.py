"""nanogfl.machine: the cores that a container's quota pays for, and the loader processes that its memory holds."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from models import write_models

from nanogfl import machine
from nanogfl.machine import cores, limit_workers, limited_by_quota, quota
from nanogfl.runtime.session import open_session

MB = 1 << 20


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),  # no container, or no Linux
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "no numbers"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "50000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "0\n"}, math.inf),
    ],
)
def test_the_quota_is_what_the_control_group_grants(files: dict[str, str], expected: float, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert quota(tmp_path) == expected


@pytest.fixture
def granted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """A process bound to eight cores whose quota is the parameter."""
    (tmp_path / "cpu.max").write_text(f"{int(request.param * 100000)} 100000")
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    cores.cache_clear()
    yield
    cores.cache_clear()


@pytest.mark.parametrize(("granted", "expected"), [(0.2, 1), (2, 2), (2.5, 3), (8, 8), (64, 8)], indirect=["granted"])
def test_cores_are_those_bound_that_the_quota_pays_for(granted: None, expected: int) -> None:
    assert cores() == expected and limited_by_quota() is (expected < 8)


@pytest.mark.parametrize(("granted", "expected"), [(2, 2), (64, 0)], indirect=["granted"])
def test_onnxruntime_is_told_of_a_quota_only(granted: None, expected: int, tmp_path: Path) -> None:
    """It counts the machine's cores by itself; 0 leaves it the choice."""
    write_models(tmp_path, (64, 64))
    for threads, wanted in ((None, expected), (3, 3)):
        session = open_session(tmp_path / "model.onnx", threads)
        assert session.get_session_options().intra_op_num_threads == wanted


@pytest.mark.parametrize(("granted", "expected"), [(2, "2"), (64, "None")], indirect=["granted"])
def test_torch_is_told_of_a_quota_before_it_counts(granted: None, expected: str, tmp_path: Path) -> None:
    code = f"""
import os, pathlib
from nanogfl import machine
machine.GROUPS = pathlib.Path({str(machine.GROUPS)!r})
os.sched_getaffinity = lambda _: set(range(8))
from nanogfl.cli import main
try:
    main(["--version"])
except SystemExit:
    print(os.environ.get("OMP_NUM_THREADS"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == expected


@pytest.mark.parametrize(
    ("free", "asked", "batch", "processes", "expected"),
    [
        (64 * MB, 8, 5 * MB, 1, 2),  # Docker's 64 MB, 16 pictures of 320 px: 2 x 2 + 1 batches are 25 of 32 MB
        (64 * MB, 2, 5 * MB, 1, 2),
        (64 * MB, 2, 5 * MB, 2, 1),
        (64 * MB, 8, 50 * MB, 1, 0),
        (30 * MB, 1, 5 * MB, 1, 1),  # 3 batches are the half, to the byte
        (30 * MB - 1, 1, 5 * MB, 1, 0),
        (0, 4, 1, 1, 0),
        (0, 0, 5 * MB, 1, 0),
        (0, 4, 0, 1, 4),  # pictures lie on the device
        (None, 4, 50 * MB, 1, 4),
    ],
)
def test_no_more_loader_processes_than_shared_memory_holds(
    free: int | None, asked: int, batch: int, processes: int, expected: int,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """One whose batch finds no room never hands it over, and the training waits for ever."""

    def usage(path: Path) -> SimpleNamespace:
        if free is None:
            raise FileNotFoundError(path)
        return SimpleNamespace(free=free)

    monkeypatch.setattr("shutil.disk_usage", usage)
    with caplog.at_level(logging.WARNING, "nanogfl"):
        assert limit_workers(asked, batch, processes) == expected
    assert len(caplog.records) == (expected < asked)


def test_the_line_says_what_to_give(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=64 * MB))
    limit_workers(8, 5 * MB)
    (line,) = caplog.messages
    assert line.startswith("the 64 MB of /dev/shm are enough for the batches of 2 loader processes, not 8: use 171 MB")
    assert line.endswith("(docker run --shm-size), or set train.workers=2")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=171 * MB))
    assert limit_workers(8, 5 * MB) == 8
