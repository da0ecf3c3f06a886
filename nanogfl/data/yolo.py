"""Reader of YOLO datasets: one text file of normalised boxes per picture, with or without a data.yaml."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np

from nanogfl.data import splits
from nanogfl.data.data_yaml import KEYS, class_names, load, points
from nanogfl.data.findings import Findings
from nanogfl.data.folders import files_below, files_in, nfc, relative, subfolders
from nanogfl.data.table import SPLITS, Example, Table, numbered
from nanogfl.data.text import read_text
from nanogfl.data.yolo_labels import TEXT, Labels, Rows, read_labels, row_of
from nanogfl.data.yolo_places import ReadState, pictures_of, places, plain
from nanogfl.errors import DataError
from nanogfl.pictures import SUFFIXES

UNREAD: Rows = {}  # marks a label file that cannot be read, by identity


def read_config(file: Path, notes: Findings) -> Table:
    """Read the dataset of a data.yaml as annotated: sizes are 0, boxes are fractions of the picture and unchecked."""
    document = load(file)
    if not isinstance(document, dict) or not document.keys() & KEYS.keys():
        raise DataError(f"{file} is not a data.yaml: it must list the pictures of train, val or test, and the classes")
    names = notes.attempt(file.name, lambda: class_names(file, document, notes), {})
    start = document.get("path")
    starts = [file.parent / start] if isinstance(start, str) else []
    found = ReadState(file.parent, [p for p in [*starts, file.parent] if p.is_dir()], notes, points=points(document))
    named = [(split, p) for key, split in KEYS.items() for p in places(file, document.get(key), split, found)]
    folders = [p if p.is_dir() else p.parent for _, p in named]
    holding = (plain(b) for b in (file.parent, *starts) if all(f.is_relative_to(plain(b)) for f in folders))
    found.root = next(holding, None) or _common(file, folders)
    for split in SPLITS:
        for place in (p for s, p in named if s == split):
            pictures = files_below(place, SUFFIXES) if place.is_dir() else pictures_of(place, found)
            found.pictures += [(p, split) for p in pictures]
    return _table(found, names)


def _common(file: Path, folders: Sequence[Path]) -> Path:
    """Return the folder of a yaml and all pictures; of the pictures alone if the yaml is on another drive (Windows)."""
    for paths in ([plain(file.parent), *folders], folders):
        with suppress(ValueError):
            return Path(os.path.commonpath(paths))
    raise DataError(f"{file}: the pictures are on several drives; move them to one")


def find_folders(root: Path) -> list[tuple[Path, str | None]]:
    """Return the picture folders that have label folders, with their split: images/train, train/images, or images."""
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


def find_flat(root: Path) -> list[tuple[Path, str | None]]:
    """Return the folders with label files beside the pictures, as LabelImg writes them: split folders or the root."""
    parts = [(f, splits.named(n)) for n, f in subfolders(root).items() if splits.named(n) and files_in(f, SUFFIXES)]
    if any(_is_flat(folder) for folder, _ in parts):
        return parts
    return [(root, None)] if _is_flat(root) else []


def _is_flat(folder: Path) -> bool:
    """Return whether a text file here has a picture's name and a line with a box, unlike captions and readme files."""
    stems = {nfc(p.stem) for p in files_in(folder, SUFFIXES)}
    files = (p for p in files_in(folder, TEXT) if nfc(p.stem) in stems)
    return any(row_of(line.split()) for file in files for line in read_text(file).splitlines())


def read_folders(root: Path, folders: Sequence[tuple[Path, str | None]], notes: Findings, flat: bool = False) -> Table:
    """Read a dataset without a yaml, as ``read_config`` does; class names are from classes.txt, else class_0...

    If ``flat`` is set, label files lie beside the pictures, and deeper folders are not part of the dataset.
    """
    files = files_in if flat else files_below
    pictures = [(p, split) for s in (*SPLITS, None) for f, split in folders if split == s for p in files(f, SUFFIXES)]
    labels = Labels()
    _note_unlisted(root, folders, {path for path, _ in pictures}, labels, notes)
    beside = [place for folder, _ in folders for place in labels.folders(folder)]
    names = notes.attempt("classes.txt", lambda: _listed_names(root, beside), [])
    return _table(ReadState(root, [root], notes, pictures), {i: name for i, name in enumerate(names) if name})


def _note_unlisted(
    root: Path, folders: Sequence[tuple[Path, str | None]], listed: set[Path], labels: Labels, notes: Findings
) -> None:
    """Note labelled pictures that lie in ``images``, but outside of the split folders there."""
    for holder in dict.fromkeys(f.parent for f, split in folders if split and f.parent.name.lower() == "images"):
        for path in files_below(holder, SUFFIXES):
            if path not in listed and any(file.is_file() for file in labels.of(path)):
                notes.add("picture-unlisted", relative(path, root), "", "it is outside the folders of the splits")


def _listed_names(root: Path, labels: Sequence[Path]) -> list[str]:
    """Return the class names from the dataset's own list, else from the lists that tools write beside the labels.

    Raises DataError if two of the latter disagree; a list that is the beginning of another one agrees with it.
    """
    own = (root / "classes.txt", root / "labels" / "classes.txt", root / "obj.names")  # the last is from CVAT
    files = [f for f in own if f.is_file()][:1]
    for folder in () if files else dict.fromkeys(labels):  # from LabelImg, else Roboflow
        files += [f for name in ("classes.txt", "_darknet.labels") if (f := folder / name).is_file()][:1]
    longest: list[str] = []
    for file in files:
        names = [line.strip() for line in read_text(file).rstrip().split("\n")]
        shorter, longer = sorted((names, longest), key=len)
        if longer[: len(shorter)] != shorter:
            raise DataError(f"{file} numbers classes differently from {files[0]}; write one classes.txt in {root}")
        longest = longer
    return longest


def _table(found: ReadState, names: dict[int, str]) -> Table:
    """Read the labels of all pictures into a table. Without names, the classes are class_0 to the highest label."""
    rows = _rows(found)
    found.pictures = [(path, split) for path, split in found.pictures if rows[path] is not UNREAD]
    labelled = {split for path, split in found.pictures if rows[path] is not None}
    if found.pictures and not labelled:
        raise DataError(f"{found.root}: no picture has a label file; images/NAME.jpg requires labels/NAME.txt")
    highest = max((row[0] for r in rows.values() for row in (r or {}).values()), default=-1)
    names = names or dict(enumerate(numbered(highest + 1)))
    order = list(dict.fromkeys(names[i] for i in sorted(names)))
    place = {name: i for i, name in enumerate(order)}
    index = {i: place[name] for i, name in names.items()}
    if len(order) < len(names):
        found.notes.add("class-repeated", found.root.name, "names", f"{len(names)} names, {len(order)} distinct")
    made: dict[Path, Example] = {}  # labels and findings are made once for a picture in two splits
    examples = []
    for path, split in found.pictures:
        if split in labelled:
            made[path] = made.get(path) or _example(found, path, rows[path], index)
            examples.append(replace(made[path], split=split))
        else:
            name = path.relative_to(found.root).as_posix()
            found.notes.add("picture-unlabelled", name, "", f"no picture in split {split} has a label file")
    return Table(found.root, "yolo", tuple(order), tuple(examples))


def _rows(found: ReadState) -> dict[Path, Rows | None]:
    """Return each picture's boxes; None without a label file, UNREAD if it is unreadable and reading is lenient."""
    labels, rows = Labels(), {}
    for path in dict.fromkeys(path for path, _ in found.pictures):
        rows[path] = found.notes.attempt(
            relative(path, found.root),
            lambda path=path: read_labels(labels.of(path), found.root, found.points, found.notes),
            UNREAD,
        )
    return rows


def _example(found: ReadState, path: Path, read: Rows | None, index: dict[int, int]) -> Example:
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
