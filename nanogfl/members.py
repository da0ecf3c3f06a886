"""Pictures inside tar files: of ``train/000.tar/cat.jpg``, 000.tar is the file and cat.jpg its member.

A million small files are slow to list, to copy, and to read over a network; a thousand tars of a thousand are not. Tars
are not compressed, so that a member is read alone, from where tarfile says that it lies.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

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
    return path.is_file() if tar is None else path.relative_to(tar).as_posix() in _members(tar)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, or of a member of a tar.

    Raises:
        OSError: there is none, or the disk fails.
        DataError: the tar is damaged.
    """
    tar = tar_of(path)
    if tar is None:
        return path.read_bytes()
    place = _members(tar).get(path.relative_to(tar).as_posix())
    if place is None:
        raise FileNotFoundError(2, "No such member", str(path))
    with tar.open("rb") as file:
        file.seek(place[0])
        return file.read(place[1])


@cache
def _members(tar: Path) -> dict[str, tuple[int, int]]:
    """Where each file in a tar begins, and its bytes."""
    try:
        with tarfile.open(tar, "r:") as opened:
            files = [member for member in opened if member.isreg()]
        return {member.name.removeprefix("./"): (member.offset_data, member.size) for member in files}
    except tarfile.TarError as error:
        raise DataError(f"cannot read {tar}: {error}; it must be a whole tar without compression") from error


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
