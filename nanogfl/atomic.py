"""Atomic writing of files: write to a temporary file beside the target, then rename it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = 1 << 20  # bytes; a disk with at most this much free space counts as full


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; the file replaces the target on success and is removed on any error.

    Parent folders are created. If the path is a symbolic link, the file that it points to is replaced. A device or a
    pipe is written to directly.
    """
    device = path.exists() and not (path.is_file() or path.is_dir())
    path = path if device else path.resolve()  # if /dev/stdout is a pipe, it resolves to no file
    partial = path if device else path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if not device:
            partial.replace(path)
    except RuntimeError as error:  # torch's writer gives no cause; assume a full disk if little space is left
        if shutil.disk_usage(path.parent).free > FULL:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    except OSError as error:  # the error of a full disk lacks the file's name
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if not device:
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically; raise ValueError for NaN and infinity."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
