"""The cores and the shared memory that this process may use; in a container, less than the system reports."""

from __future__ import annotations

import functools
import logging
import math
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)
GROUPS = Path("/sys/fs/cgroup")
SHARED = Path("/dev/shm")  # shared memory on Linux


@functools.cache
def cores() -> int:
    """Return how many cores this process may use: those it is bound to, limited by its container's CPU quota."""
    return max(1, math.ceil(min(_bound(), quota(GROUPS))))


def limited_by_quota() -> bool:
    """Return whether libraries that count cores themselves would use more than the quota grants."""
    return cores() < _bound()


def _bound() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def quota(groups: Path) -> float:
    """Return the CPU quota of the process's control group (v2, else v1), in cores; infinite if none is set."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((groups / name).read_text() for name in names).split()
            granted, period = (float(word) for word in words)
        except (OSError, ValueError):  # no such file; or "max 100000"
            continue
        if granted > 0 and period > 0:  # v1 has -1 for none
            return granted / period
    return math.inf


def limit_workers(workers: int, batch_bytes: int, processes: int = 1) -> int:
    """Limit loader processes to what shared memory has room for; without room, a process would hang without an error.

    Each process has two batches ready, and one more batch is in use. Half of the memory is left to other loaders and
    programs.

    Args:
        workers: requested number of loader processes.
        batch_bytes: size of the pictures of a batch.
        processes: training processes on this machine.
    """
    free = _shared_bytes()
    if not workers or not batch_bytes or free is None:
        return workers
    fit = max(0, free // (2 * processes * batch_bytes) - 1) // 2
    if fit < workers:
        log.warning(
            "the %.0f MB of /dev/shm are enough for the batches of %d loader processes, not %d: use %.0f MB "
            "(docker run --shm-size), or set train.workers=%d",
            free / 2**20, fit, workers, (2 * processes * batch_bytes * (2 * workers + 1) >> 20) + 1, fit,
        )  # fmt: skip
    return min(workers, fit)


def _shared_bytes() -> int | None:
    """Return the free bytes of the memory that processes share pictures in; None if there is no such limit."""
    try:
        return shutil.disk_usage(SHARED).free
    except OSError:
        return None
