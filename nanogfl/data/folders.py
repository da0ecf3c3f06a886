"""Folders of a set: their sub-folders, and all files below, through links too."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

ANNOTATION_FOLDERS = ("annotations", "annotation")
PICTURE_FOLDERS = ("images", "data", "jpegimages")


def is_hidden(name: str) -> bool:
    """Whether a name is none of the set's: hidden ones, and what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def spelt(name: str) -> str:
    """A name as names are compared: an accent has two codings, and disks and archives give either."""
    return unicodedata.normalize("NFC", name)


def spellings(name: str) -> list[str]:
    """A name as it is written, and in the other codings that its file may have."""
    return [name] if name.isascii() else [name, spelt(name), unicodedata.normalize("NFD", name)]


def lookup(files: Mapping[str, Path], name: str) -> Path | None:
    """The file of this name, in any of its codings."""
    return next((files[spelling] for spelling in spellings(name) if spelling in files), None)


def relative(file: Path, root: Path) -> str:
    """What a finding calls a file: its path from the set's root, also where it lies outside."""
    return Path(os.path.relpath(file, root)).as_posix()


def subfolders(parent: Path) -> dict[str, Path]:
    """List sub-folders by lower-case name, in that order; nothing where the parent is no folder."""
    if not parent.is_dir():
        return {}
    with os.scandir(parent) as entries:  # asks the disk nothing for each of 100,000 pictures, unlike Path.is_dir
        names = sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))
    return {name.lower(): parent / name for name in names}


def files_in(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The folder's own files with one of these suffixes (in any case), sorted; none that is hidden."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if not is_hidden(e.name))
    return [folder / name for name in names if os.path.splitext(name)[1].lower() in suffixes]  # noqa: PTH122


def files_below(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """All files below with one of these suffixes (in any case), sorted; none that is hidden.

    Links to folders are followed, each folder is listed once: under its own name where it has one here.
    """
    return sorted(
        path / name
        for path, names in _listings(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes and not is_hidden(name)  # noqa: PTH122 - of 100,000 names
    )


def _listings(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below with the names of its files; links after all that lies here, in no circle."""
    above = Path(os.path.realpath(folder)).parents  # a link to one of these would take in what lies beside the folder
    waiting, seen = [str(folder)], {str(path) for path in above}
    while waiting:
        for place, inner, names in os.walk(waiting.pop(0)):
            real = os.path.realpath(place)
            inner[:] = [] if real in seen else sorted(name for name in inner if not is_hidden(name))
            if real not in seen:
                seen.add(real)
                waiting += [path for name in inner if os.path.islink(path := os.path.join(place, name))]  # noqa: PTH114, PTH118
                yield Path(place), names
