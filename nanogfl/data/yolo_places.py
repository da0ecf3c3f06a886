"""Locating the pictures of a data.yaml: the folders and lists that it names, and the lines of these lists.

Both may be wrong by a folder level, or be paths of another machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nanogfl.data import splits
from nanogfl.data.findings import Findings, listed
from nanogfl.data.folders import relative, subfolders, unicode_variants
from nanogfl.data.text import read_text
from nanogfl.errors import DataError


@dataclass
class ReadState:
    """The state of reading a dataset: its root, the folders that paths may start from, its pictures with their split.

    In a pose dataset ``points`` numbers follow each box and are ignored. ``missing``: listed pictures without a file.
    """

    root: Path
    bases: list[Path]
    notes: Findings
    pictures: list[tuple[Path, str | None]] = field(default_factory=list)
    points: int = 0
    missing: set[Path] = field(default_factory=set)


def places(file: Path, value: object, split: str, found: ReadState) -> Iterator[Path]:
    """Yield the folders and lists that a split's key names, corrected if they are wrong by a folder level."""
    for entry in value if isinstance(value, list) else [value] if value else []:
        if not isinstance(entry, str):
            raise DataError(f"{file}: {split} must be a path or a list of paths, not {type(entry).__name__}")
        place = next(_candidates(entry, found.bases), None)
        if place is None:
            found.notes.add("split-missing", file.name, split, f"{entry[:200]} does not exist")
            continue
        if plain(place) not in [plain(base / entry) for base in found.bases]:
            found.notes.add("path-corrected", file.name, split, f"{entry[:200]} was found at {place}")
        yield plain(place)


def _candidates(entry: str, bases: list[Path]) -> Iterator[Path]:
    """Yield existing paths that an entry can mean: inside the set, as written, shortened in front, a level deeper."""
    inside, *shorter = _endings(entry)
    if any(splits.named(part) for part in inside):
        shorter = [parts for parts in shorter if any(splits.named(part) for part in parts)]
    options = [base.joinpath(*inside) for base in bases] + [base / entry for base in bases]
    options += [base.joinpath(*parts) for parts in shorter for base in bases]
    options += [f.joinpath(*inside) for base in bases for f in subfolders(base).values()]
    return (p for p in options if p.is_dir() or (p.suffix == ".txt" and p.is_file()))


def _endings(entry: str) -> list[list[str]]:
    """Return the parts of a path without ``/``, ``..`` and ``.``, then its endings with fewer leading folders."""
    parts = [p for p in PurePosixPath(entry.replace("\\", "/")).parts if p not in ("/", "..", ".")]
    return [parts, *(parts[i:] for i in range(1, len(parts)))]


def plain(path: Path) -> Path:
    """Return an absolute path without ``..``; symbolic links are kept, so that names match what the user sees."""
    return Path(os.path.normpath(path.absolute()))


def pictures_of(file: Path, found: ReadState) -> Iterator[Path]:
    """Yield the pictures that the lines of a text file name, relative to the file or the root; none outside the root.

    If a line leads to no file, the endings of its path are tried.
    """
    name = relative(file, found.root)
    bases = [file.parent, found.root, *found.bases]
    corrected: dict[int, str] = {}
    for number, line in enumerate(map(str.strip, read_text(file).splitlines()), 1):
        texts = unicode_variants(line) if line else []
        options = _inside([base / text.replace("\\", "/") for text in texts for base in bases], found.root)
        path = next((p for p in options if p.is_file()), None)
        if path is None:
            ends = [parts for text in texts for parts in _endings(text)]
            meant = _inside([base.joinpath(*parts) for parts in ends for base in bases], found.root)
            path = next((p for p in meant if p.is_file()), None)
            corrected.update({number: f"{line[:200]} was found at {path}"} if path else {})
        if path:
            yield path
        elif options and options[0] not in found.missing:
            found.missing.add(options[0])
            found.notes.add("picture-missing", relative(options[0], found.root), "", f"listed in {name}, line {number}")
        elif line and not options:
            found.notes.add("picture-outside", name, f"line {number}", line[:200])
    if corrected:
        found.notes.add("path-corrected", name, listed("line", list(corrected)), next(iter(corrected.values())))


def _inside(options: list[Path], root: Path) -> list[Path]:
    return [p for p in map(plain, options) if p.is_relative_to(root) and "\0" not in str(p)]
