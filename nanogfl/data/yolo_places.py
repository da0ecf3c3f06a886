"""Where a data.yaml's pictures lie: the folders and lists that it names, and the lines of these lists.

Both may be wrong by a level, or be another machine's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nanogfl.data import splits
from nanogfl.data.findings import Findings, listed
from nanogfl.data.folders import relative, spellings, subfolders
from nanogfl.data.text import read_text
from nanogfl.errors import DataError


@dataclass
class Reading:
    """A set while it is read: its root, where paths may start, its pictures with their split.

    Of a set of poses ``points`` numbers follow each box; they are passed over. ``missing`` are listed, but not there.
    """

    root: Path
    bases: list[Path]
    notes: Findings
    pictures: list[tuple[Path, str | None]] = field(default_factory=list)
    points: int = 0
    missing: set[Path] = field(default_factory=set)


def places(file: Path, value: object, split: str, found: Reading) -> Iterator[Path]:
    """Folders and lists that a split's key names, which may be wrong by a level."""
    for entry in value if isinstance(value, list) else [value] if value else []:
        if not isinstance(entry, str):
            raise DataError(f"{file}: {split} must be a path or a list of paths, not {type(entry).__name__}")
        place = next(_candidates(entry, found.bases), None)
        if place is None:
            found.notes.add("split-missing", file.name, split, f"{entry[:200]} is not there")
            continue
        if plain(place) not in [plain(base / entry) for base in found.bases]:
            found.notes.add("path-corrected", file.name, split, f"{entry[:200]} was found at {place}")
        yield plain(place)


def _candidates(entry: str, bases: list[Path]) -> Iterator[Path]:
    """Existing places that an entry can mean: inside the set, as written, less leading folders, a level deeper."""
    inside, *shorter = _endings(entry)
    if any(splits.named(part) for part in inside):
        shorter = [parts for parts in shorter if any(splits.named(part) for part in parts)]
    options = [base.joinpath(*inside) for base in bases] + [base / entry for base in bases]
    options += [base.joinpath(*parts) for parts in shorter for base in bases]
    options += [f.joinpath(*inside) for base in bases for f in subfolders(base).values()]
    return (p for p in options if p.is_dir() or (p.suffix == ".txt" and p.is_file()))


def _endings(entry: str) -> list[list[str]]:
    """The parts of a path that stay inside, then these less leading folders."""
    parts = [p for p in PurePosixPath(entry.replace("\\", "/")).parts if p not in ("/", "..", ".")]
    return [parts, *(parts[i:] for i in range(1, len(parts)))]


def plain(path: Path) -> Path:
    """Write a path without ``..``; symbolic links stay, so that names are relative to what the user sees."""
    return Path(os.path.normpath(path.absolute()))


def pictures_of(file: Path, found: Reading) -> Iterator[Path]:
    """Pictures that the lines of a text file name, relative to it or to the root; none outside the root.

    A line that leads nowhere means the picture that the end of its path leads to.
    """
    name = relative(file, found.root)
    bases = [file.parent, found.root, *found.bases]
    corrected: dict[int, str] = {}
    for number, line in enumerate(map(str.strip, read_text(file).splitlines()), 1):
        texts = spellings(line) if line else []
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
            found.notes.add("picture-missing", relative(options[0], found.root), "", f"{name}, line {number} lists it")
        elif line and not options:
            found.notes.add("picture-outside", name, f"line {number}", line[:200])
    if corrected:
        found.notes.add("path-corrected", name, listed("line", list(corrected)), next(iter(corrected.values())))


def _inside(options: list[Path], root: Path) -> list[Path]:
    return [p for p in map(plain, options) if p.is_relative_to(root) and "\0" not in str(p)]
