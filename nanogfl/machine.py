"""What of the machine this process may use, which in a container is less than the system says it has."""

from __future__ import annotations

import functools
import logging
import math
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)
GROUPS = Path("/sys/fs/cgroup")
SHARED = Path("/dev/shm")  # where Linux keeps what processes share


@functools.cache
def cores() -> int:
    """Cores that this process is bound to, and no more than its container's quota of CPU time pays for."""
    return max(1, math.ceil(min(_bound(), quota(GROUPS))))


def rationed() -> bool:
    """Whether libraries that count cores by themselves take more of them than a quota pays for."""
    return cores() < _bound()


def _bound() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def quota(groups: Path) -> float:
    """Cores' worth of time that Linux grants the process' control group (v2, else v1); infinite where none is set."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((groups / name).read_text() for name in names).split()
            granted, period = (float(word) for word in words)
        except (OSError, ValueError):  # no such file; or "max 100000"
            continue
        if granted > 0 and period > 0:  # v1 says -1 for none
            return granted / period
    return math.inf


def affordable(workers: int, batch_bytes: int, processes: int = 1) -> int:
    """As many loader processes as shared memory holds batches for; one that finds none left would say no more.

    Each has two batches ready, and one is in use. Half of the memory is left to other loaders and programs.

    Args:
        workers: asked for.
        batch_bytes: of the pictures of a batch.
        processes: that train on this machine.
    """
    free = _shared_bytes()
    if not workers or not batch_bytes or free is None:
        return workers
    fit = max(0, free // (2 * processes * batch_bytes) - 1) // 2
    if fit < workers:
        log.warning(
            "the %.0f MB of /dev/shm hold the batches of %d loader processes, not of %d: give it %.0f MB "
            "(docker run --shm-size), or set train.workers=%d",
            free / 2**20, fit, workers, (2 * processes * batch_bytes * (2 * workers + 1) >> 20) + 1, fit,
        )  # fmt: skip
    return min(workers, fit)


def _shared_bytes() -> int | None:
    """Free bytes of the memory that processes hand each other pictures in; None where nothing bounds it."""
    try:
        return shutil.disk_usage(SHARED).free
    except OSError:
        return None
