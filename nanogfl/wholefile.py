"""Files on disk, whole or not at all: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = 1 << 20  # bytes that may be free on a disk that counts as full


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the temporary name to write to; it takes the target's place at the end, and is removed on any error.

    Parents are created. A link stays one: the file that it leads to is replaced. A device or a pipe is written to
    directly.
    """
    device = path.exists() and not (path.is_file() or path.is_dir())
    path = path if device else path.resolve()  # /dev/stdout leads to no file where it is a pipe
    partial = path if device else path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if not device:
            partial.replace(path)
    except RuntimeError as error:  # torch's writer does not say why
        if shutil.disk_usage(path.parent).free > FULL:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    except OSError as error:  # a full disk is told without the file's name
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if not device:
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
