"""Access to pictures inside tar archives: in ``train/000.tar/cat.jpg``, 000.tar is the archive and cat.jpg its member.

A million small files are slow to list, to copy, and to read over a network; a thousand archives of a thousand files are
not. The archives must be uncompressed, so that a single member can be read at the offset that tarfile reports.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

from nanogfl.errors import DataError

SUFFIX = ".tar"


def tar_of(path: Path) -> Path | None:
    """Return the tar archive that a path leads into, or None for an ordinary file.

    The file system is only accessed if the path contains ".tar".
    """
    if SUFFIX not in str(path).lower():
        return None
    return next((p for p in path.parents if p.suffix.lower() == SUFFIX and p.is_file()), None)


def is_file(path: Path) -> bool:
    """Return whether a path is an existing file or an existing member of a tar archive."""
    tar = tar_of(path)
    return path.is_file() if tar is None else path.relative_to(tar).as_posix() in members(tar)


def open_bytes(path: Path) -> BinaryIO:
    """Open a file or a member of a tar archive for reading.

    Raises:
        OSError: it does not exist, or reading fails.
        DataError: the archive is damaged.
    """
    tar = tar_of(path)
    if tar is None:
        return path.open("rb")
    place = members(tar).get(path.relative_to(tar).as_posix())
    if place is None:
        raise FileNotFoundError(2, "No such member", str(path))
    return io.BufferedReader(_Part(tar, *place))  # type: ignore[return-value]


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file or of a member of a tar archive. Raises the errors of ``open_bytes``."""
    with open_bytes(path) as file:
        return file.read()


class _Part(io.RawIOBase):
    """A byte range of a file, readable as a file of its own."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self.file, self.start, self.size, self.at = path.open("rb", buffering=0), start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.file.seek(self.start + self.at)
        got = self.file.readinto(memoryview(buffer)[: max(0, self.size - self.at)])
        self.at += got
        return got

    def close(self) -> None:
        self.file.close()
        super().close()


def members(tar: Path) -> dict[str, tuple[int, int]]:
    """Return the offset and size in bytes of each file in a tar archive. Raises DataError if the archive is damaged."""
    stat = tar.stat()
    found = _members(tar, stat.st_mtime_ns, stat.st_size)
    if isinstance(found, str):
        raise DataError(found)
    return found


@cache
def _members(tar: Path, _: int, size: int) -> dict[str, tuple[int, int]] | str:
    """Return the result of ``members``, or the error message if the archive is damaged.

    Both are cached because they are needed for every picture. Modification time and size are part of the cache key, so
    that a changed file is read again.
    """
    found: dict[str, tuple[int, int]] = {}
    last = -1
    try:
        with tarfile.open(tar, "r:") as opened:
            while (member := opened.next()) is not None:
                opened.members = []  # pyright: ignore - it keeps them all
                if member.offset <= last or not 0 <= member.size <= size:
                    raise tarfile.ReadError("a member ends before its start, or after the end of the file")
                last, name = member.offset, member.name.removeprefix("./")
                if member.isreg() and not member.issparse():
                    found[name] = (member.offset_data, member.size)
                elif member.islnk() and (other := member.linkname.removeprefix("./")) in found:
                    found[name] = found[other]
    except (tarfile.TarError, ValueError, OverflowError) as error:
        return f"cannot read {tar}: {error}; it must be a complete, uncompressed tar"
    return found


def pack(files: Sequence[Path], tar: Path) -> None:
    """Move files into a new tar archive, named by their last path component; equal files give equal archives."""
    with tarfile.open(tar, "w") as opened:
        for file in files:
            opened.add(file, file.name, filter=_without_owner)
    for file in files:
        file.unlink()


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member
