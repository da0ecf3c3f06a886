"""Pictures inside tar files: of ``train/000.tar/cat.jpg``, 000.tar is the file and cat.jpg its member.

A million small files are slow to list, to copy, and to read over a network; a thousand tars of a thousand are not. Tars
are not compressed, so that a member is read alone, from where tarfile says that it lies.
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
    """The tar that a path leads into, or None for a usual file; the disk is only asked where a part ends in .tar."""
    if SUFFIX not in str(path).lower():
        return None
    return next((p for p in path.parents if p.suffix.lower() == SUFFIX and p.is_file()), None)


def is_file(path: Path) -> bool:
    """Whether there is such a file, or such a member of a tar."""
    tar = tar_of(path)
    return path.is_file() if tar is None else path.relative_to(tar).as_posix() in members(tar)


def open_bytes(path: Path) -> BinaryIO:
    """A file, or a member of a tar, to be read.

    Raises:
        OSError: there is none, or the disk fails.
        DataError: the tar is damaged.
    """
    tar = tar_of(path)
    if tar is None:
        return path.open("rb")
    place = members(tar).get(path.relative_to(tar).as_posix())
    if place is None:
        raise FileNotFoundError(2, "No such member", str(path))
    return io.BufferedReader(_Part(tar, *place))  # type: ignore[return-value]


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, or of a member of a tar. Raises as ``open_bytes`` does."""
    with open_bytes(path) as file:
        return file.read()


class _Part(io.RawIOBase):
    """Some bytes of a file, as if they were all."""

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
    """Where each file in a tar begins, and its bytes. Raises DataError where the tar is damaged."""
    stat = tar.stat()
    found = _members(tar, stat.st_mtime_ns, stat.st_size)
    if isinstance(found, str):
        raise DataError(found)
    return found


@cache
def _members(tar: Path, _: int, size: int) -> dict[str, tuple[int, int]] | str:
    """As ``members``, or what is wrong, for it is asked of each picture; read again where the file has changed."""
    found: dict[str, tuple[int, int]] = {}
    last = -1
    try:
        with tarfile.open(tar, "r:") as opened:
            while (member := opened.next()) is not None:
                opened.members = []  # pyright: ignore - it keeps them all
                if member.offset <= last or not 0 <= member.size <= size:
                    raise tarfile.ReadError("a member says that it ends before it begins, or behind the file")
                last, name = member.offset, member.name.removeprefix("./")
                if member.isreg() and not member.issparse():
                    found[name] = (member.offset_data, member.size)
                elif member.islnk() and (other := member.linkname.removeprefix("./")) in found:
                    found[name] = found[other]
    except (tarfile.TarError, ValueError, OverflowError) as error:
        return f"cannot read {tar}: {error}; it must be a whole tar without compression"
    return found


def pack(files: Sequence[Path], tar: Path) -> None:
    """Move files into a new tar, under the last part of their names; the same files make the same bytes."""
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
