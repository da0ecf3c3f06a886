"""YOLO: one text file of normalised boxes a picture, with or without a data.yaml."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from pathlib import Path, PurePosixPath

import numpy as np

from nanogfl.data import splits
from nanogfl.data.data_yaml import CLASS_LIMIT, KEYS, class_names, load, points
from nanogfl.data.findings import Findings, listed
from nanogfl.data.folders import files_below, relative, subfolders
from nanogfl.data.table import SPLITS, Example, Table
from nanogfl.data.text import read_text
from nanogfl.errors import DataError
from nanogfl.pictures import SUFFIXES

Row = tuple[int, float, float, float, float]
Rows = dict[int, Row]  # by number of the line


@dataclass
class _Set:
    """A set while it is read: its root, where paths may start, its pictures with their split.

    Of a set of poses ``points`` numbers follow each box; they are passed over.
    """

    root: Path
    bases: list[Path]
    notes: Findings
    pictures: list[tuple[Path, str | None]] = field(default_factory=list)
    points: int = 0


def read_config(file: Path, notes: Findings) -> Table:
    """Read the set of a data.yaml as annotated: sizes are 0, boxes are fractions of the picture and unchecked."""
    document = load(file)
    if not isinstance(document, dict) or not document.keys() & KEYS.keys():
        raise DataError(f"{file} is no data.yaml: it must name the pictures of train, val or test, and the classes")
    names = notes.attempt(file.name, lambda: class_names(file, document), {})
    start = document.get("path")
    starts = [file.parent / start] if isinstance(start, str) else []
    found = _Set(file.parent, [p for p in [*starts, file.parent] if p.is_dir()], notes, points=points(document))
    places = [(split, p) for key, split in KEYS.items() for p in _places(file, document.get(key), split, found)]
    folders = [p if p.is_dir() else p.parent for _, p in places]
    holding = (_plain(b) for b in (file.parent, *starts) if all(f.is_relative_to(_plain(b)) for f in folders))
    found.root = next(holding, None) or Path(os.path.commonpath([_plain(file.parent), *folders]))
    for split in SPLITS:
        for place in (p for s, p in places if s == split):
            pictures = files_below(place, SUFFIXES) if place.is_dir() else _list(place, found)
            found.pictures += [(p, split) for p in pictures]
    return _table(found, names)


def find_folders(root: Path) -> list[tuple[Path, str | None]]:
    """Find folders of pictures beside labels, by split: images/train, train/images, or images alone."""
    folders = subfolders(root)
    if "images" in folders and "labels" in folders:
        parts = [(f, splits.named(n)) for n, f in subfolders(folders["images"]).items()]
        return [p for p in parts if p[1]] or [(folders["images"], None)]
    found = []
    for name, folder in folders.items():
        inner = subfolders(folder)
        if splits.named(name) and "images" in inner and "labels" in inner:
            found.append((inner["images"], splits.named(name)))
    return found


def read_folders(root: Path, folders: Sequence[tuple[Path, str | None]], notes: Findings) -> Table:
    """Read a set without a yaml, as ``read_config`` does; class names are classes.txt's, else class_0..."""
    pictures = [
        (p, split) for s in (*SPLITS, None) for f, split in folders if split == s for p in files_below(f, SUFFIXES)
    ]
    labels = [next(label_files(folder / "any")).parent for folder, _ in folders]
    names = notes.attempt("classes.txt", lambda: _listed_names(root, labels), [])
    return _table(_Set(root, [root], notes, pictures), {i: name for i, name in enumerate(names) if name})


def _listed_names(root: Path, labels: Sequence[Path]) -> list[str]:
    """Class names of the set's classes.txt, else of those that LabelImg leaves beside the labels of each split.

    Raises DataError where two of these disagree; one that ends earlier does not.
    """
    files = [f for f in (root / "classes.txt", root / "labels" / "classes.txt") if f.is_file()][:1]
    files = files or [f for folder in dict.fromkeys(labels) if (f := folder / "classes.txt").is_file()]
    longest: list[str] = []
    for file in files:
        names = [line.strip() for line in read_text(file).rstrip().split("\n")]
        shorter, longer = sorted((names, longest), key=len)
        if longer[: len(shorter)] != shorter:
            raise DataError(f"{file} numbers classes otherwise than {files[0]}; write one classes.txt in {root}")
        longest = longer
    return longest


def _places(file: Path, value: object, split: str, found: _Set) -> Iterator[Path]:
    """Folders and lists that a split's key names, which may be wrong by a level."""
    for entry in value if isinstance(value, list) else [value] if value else []:
        if not isinstance(entry, str):
            raise DataError(f"{file}: {split} must be a path or a list of paths, not {type(entry).__name__}")
        place = next(_candidates(entry, found.bases), None)
        if place is None:
            found.notes.add("split-missing", file.name, split, f"{entry[:200]} is not there")
            continue
        if _plain(place) not in [_plain(base / entry) for base in found.bases]:
            found.notes.add("path-corrected", file.name, split, f"{entry[:200]} was found at {place}")
        yield _plain(place)


def _candidates(entry: str, bases: list[Path]) -> Iterator[Path]:
    """Existing places that an entry can mean: inside the set, as written, less leading folders, a level deeper."""
    parts = [p for p in PurePosixPath(entry.replace("\\", "/")).parts if p not in ("/", "..", ".")]
    inside = [base.joinpath(*parts) for base in bases]
    written = [base / entry for base in bases]
    needs_word = any(splits.named(p) for p in parts)
    tails = [parts[i:] for i in range(1, len(parts))]
    tails = [t for t in tails if not needs_word or any(splits.named(p) for p in t)]
    shorter = [base.joinpath(*t) for t in tails for base in bases]
    deeper = [f.joinpath(*parts) for base in bases for f in subfolders(base).values()]
    return (p for p in (*inside, *written, *shorter, *deeper) if p.is_dir() or (p.suffix == ".txt" and p.is_file()))


def _plain(path: Path) -> Path:
    """Write a path without ``..``; symbolic links stay, so that names are relative to what the user sees."""
    return Path(os.path.normpath(path.absolute()))


def _list(file: Path, found: _Set) -> Iterator[Path]:
    """Pictures that the lines of a text file name, relative to it or to the root; none outside the root."""
    for number, line in enumerate(map(str.strip, read_text(file).splitlines()), 1):
        options = [_plain(base / line) for base in (file.parent, found.root, *found.bases)] if line else []
        inside = [p for p in options if p.is_relative_to(found.root)]
        if inside and "\0" not in line:
            yield next((p for p in inside if p.is_file()), inside[0])
        elif line:
            name = relative(file, found.root)
            found.notes.add("picture-outside", name, f"line {number}", line[:200])


def _table(found: _Set, names: dict[int, str]) -> Table:
    """Read the labels of all pictures. Without names, classes are counted from the labels."""
    rows = {path: _read_labels(path, found) for path in dict.fromkeys(path for path, _ in found.pictures)}
    labelled = {split for path, split in found.pictures if rows[path] is not None}
    if found.pictures and not labelled:
        raise DataError(f"{found.root}: no picture has a label file; images/NAME.jpg wants labels/NAME.txt")
    highest = max((row[0] for r in rows.values() for row in (r or {}).values()), default=-1)
    names = names or {i: f"class_{i}" for i in range(highest + 1)}
    order = list(dict.fromkeys(names[i] for i in sorted(names)))
    place = {name: i for i, name in enumerate(order)}
    index = {i: place[name] for i, name in names.items()}
    if len(order) < len(names):
        found.notes.add("class-repeated", found.root.name, "names", f"{len(names)} names, {len(order)} different")
    made: dict[Path, Example] = {}  # a picture of two splits has its labels, and what is wrong with them, once
    examples = []
    for path, split in found.pictures:
        if split in labelled:
            made[path] = made.get(path) or _example(found, path, rows[path], index)
            examples.append(replace(made[path], split=split))
        else:
            name = path.relative_to(found.root).as_posix()
            found.notes.add("picture-unlabelled", name, "", f"nothing in split {split} has a label file")
    return Table(found.root, "yolo", tuple(order), tuple(examples))


def _example(found: _Set, path: Path, read: Rows | None, index: dict[int, int]) -> Example:
    name, labels = path.relative_to(found.root).as_posix(), read or {}
    if read is None:
        found.notes.add("picture-unannotated", name, "", "it has no label file and counts as empty")
    for line, row in labels.items():
        if row[0] not in index:
            found.notes.add("class-unknown", name, f"line {line}", f"class {row[0]} of {len(index)}")
    known = {line: row for line, row in labels.items() if row[0] in index}
    table = np.array(list(known.values()), np.float64).reshape(-1, 5)
    return Example(
        path=path,
        name=name,
        width=0,
        height=0,
        boxes=table[:, 1:],
        labels=np.array([index[int(label)] for label in table[:, 0]], np.int64),
        crowd=np.zeros(len(table), np.bool_),
        areas=np.full(len(table), nan),
        source_id=name,
        marks=np.array(list(known), np.int64),
        unit="line",
    )


def _read_labels(picture: Path, found: _Set) -> Rows | None:
    """Read the boxes of one picture as (class, x1 y1 x2 y2 in fractions); None where it has no label file."""
    for file in label_files(picture):
        try:
            lines = read_text(file).splitlines()
        except OSError:
            continue
        where = relative(file, found.root)
        words = {number: line.split() for number, line in enumerate(lines, 1) if line.strip()}
        if found.points:
            words = {number: line[:5] if len(line) == 5 + found.points else line for number, line in words.items()}
        read = {number: _row(line) for number, line in words.items()}
        rows = {number: row for number, row in read.items() if row}
        for number in words.keys() - rows.keys():
            found.notes.add("box-malformed", where, f"line {number}", lines[number - 1].strip()[:80])
        polygons = [number for number in rows if len(words[number]) > 5]
        if polygons:
            found.notes.add("box-polygon", where, listed("line", polygons), f"{len(polygons)} of {len(rows)} lines")
        return rows
    return None


def label_files(picture: Path) -> Iterator[Path]:
    """Where a picture's labels may lie: labels instead of images in its path, else beside it."""
    parts = picture.parts[:-1]
    last = max((i for i, part in enumerate(parts) if part.lower() == "images"), default=None)
    if last is not None:
        twin = "Labels" if parts[last][0] == "I" else "labels"
        yield Path(*parts[:last], twin, *parts[last + 1 :], picture.stem + ".txt")
    yield picture.with_suffix(".txt")


def _row(words: list[str]) -> Row | None:
    """Read a line as class and corners: centre and size, or the hull of a polygon; None where it is neither."""
    try:
        label, *values = map(float, words)
    except ValueError:
        return None
    if not isfinite(label) or not 0 <= label < CLASS_LIMIT or label != int(label):
        return None
    if not all(map(isfinite, values)):
        return int(label), nan, nan, nan, nan
    if len(values) == 4:
        x, y, width, height = values
        return int(label), x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) < 6 or len(values) % 2:
        return None
    return int(label), min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
