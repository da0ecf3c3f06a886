"""Reader of Pascal VOC datasets: one xml file per picture, lists of stems for the splits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError  # types only: parsing is defusedxml's

import numpy as np
from defusedxml import DefusedXmlException, ElementTree

from nanogfl.data import splits
from nanogfl.data.findings import Findings
from nanogfl.data.folders import ANNOTATION_FOLDERS, PICTURE_FOLDERS, files_below, files_in, lookup, nfc, subfolders
from nanogfl.data.table import Example, Table
from nanogfl.data.text import read_text
from nanogfl.errors import DataError
from nanogfl.pictures import SUFFIXES

CORNERS = ("xmin", "ymin", "xmax", "ymax")
XML = frozenset({".xml"})
LISTS = {"train": "train", "val": "val", "valid": "val", "test": "test", "trainval": "train"}


@dataclass(frozen=True)
class _XmlFile:
    """The content of one xml file: file name and size from its tags, boxes as (class, corners, number of object)."""

    path: Path
    file: str
    width: int
    height: int
    boxes: list[tuple[str, list[float], int]]


def find(root: Path) -> list[Path]:
    """Return a dataset's xml files: in annotation folders, or (Roboflow) beside the pictures in split folders."""
    folders = subfolders(root)
    parts = [f for n, f in folders.items() if splits.named(n)]
    places = [f for n, f in folders.items() if n in ANNOTATION_FOLDERS]
    for part in parts:
        own = [f for n, f in subfolders(part).items() if n in ANNOTATION_FOLDERS]
        places += own or [part]
    return sorted({p for place in places for p in files_below(place, XML)})


def find_flat(root: Path) -> list[Path]:
    """Return the xml files beside the pictures, as LabelImg writes them; none unless one has the name of a picture."""
    stems, files = {nfc(p.stem) for p in files_in(root, SUFFIXES)}, files_in(root, XML)
    return files if any(nfc(p.stem) in stems for p in files) else []


def read(root: Path, files: list[Path], notes: Findings) -> Table:
    """Read the dataset as annotated: sizes may be 0, boxes are unchecked, pictures unread.

    Classes are those of all splits, sorted by name.
    """
    named = [(path, path.relative_to(root).as_posix()) for path in files]
    read = [notes.attempt(name, partial(_read_xml, path, name, notes), None) for path, name in named]
    annotations = [xml for xml in read if xml]
    names = sorted({name for xml in annotations for name, *_ in xml.boxes})
    if not names and not notes.lenient:
        raise DataError(_without_objects(root, len(files), notes))
    index = {name: i for i, name in enumerate(names)}
    listed = _listed(root, [xml.path for xml in annotations], notes)
    pictures = _Pictures(root)
    examples = []
    for xml in annotations:
        split = listed.get(xml.path) if listed else _folder_split(root, xml.path)
        example = _example(pictures, xml, index, split, notes)
        if listed and split is None:
            notes.add("picture-unlisted", example.name, "", "it is not listed in ImageSets/Main")
        else:
            examples.append(example)
    return Table(root, "voc", tuple(names), tuple(examples))


def _without_objects(root: Path, count: int, notes: Findings) -> str:
    """Return the message for a dataset without classes: it has no boxes, or no usable ones."""
    lost = [f for f in notes.found if f.kind in ("box-malformed", "class-unknown")]
    if not lost:
        return f"{root}: none of the {count} XML files has an object, but boxes are required; is this the right folder?"
    first = f"{lost[0].file}, {lost[0].where}: {lost[0].detail}"
    return f"{root}: none of the {count} XML files has an object with a name and a bndbox of four numbers; {first}"


def _read_xml(path: Path, where: str, notes: Findings) -> _XmlFile:
    """Read one xml file. Raises DataError if it is not a Pascal VOC annotation."""
    try:
        tree: Any = ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the file") from error
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise DataError(f"{path} is not valid XML: {error!r}; re-export this annotation or remove it") from error
    if tree is None or tree.tag != "annotation":
        raise DataError(f"{path} is not a Pascal VOC annotation: its root must be <annotation>; remove it")
    boxes = []
    for number, item in enumerate(tree.findall("object"), 1):
        name = _text(item, "name")
        corners = [_number(_text(item, f"bndbox/{corner}")) for corner in CORNERS]  # parts of objects lie deeper
        if name and None not in corners:
            boxes.append((name, corners, number))
        else:
            kind = "box-malformed" if name else "class-unknown"
            notes.add(kind, where, f"object {number}", f"{name[:80] or 'without a name'}: {corners}")
    width, height = (_side(_number(_text(tree, f"size/{side}")) or 0) for side in ("width", "height"))
    if not (width and height):
        notes.add("size-missing", where, "size", f"{width}x{height}")
    return _XmlFile(path, _text(tree, "filename"), width, height, boxes)


def _text(element: Element, tag: str) -> str:
    return " ".join((element.findtext(tag) or "").split())


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _side(value: float) -> int:
    return int(value) if 0 < value < 2**31 else 0


def _example(pictures: _Pictures, xml: _XmlFile, index: dict[str, int], split: str | None, notes: Findings) -> Example:
    path = pictures.picture(xml)
    told = xml.file.replace("\\", "/").rsplit("/", 1)[-1]
    if told and nfc(told) not in map(nfc, (path.name, path.stem)):
        file = xml.path.relative_to(pictures.root).as_posix()
        notes.add("path-misleading", file, "filename", f"names {told[:200]}, but its picture is {path.name}")
    name, count = path.relative_to(pictures.root).as_posix(), len(xml.boxes)
    return Example(
        path=path,
        name=name,
        width=xml.width,
        height=xml.height,
        boxes=np.array([corners for _, corners, _ in xml.boxes], np.float64).reshape(-1, 4),
        labels=np.array([index[name] for name, *_ in xml.boxes], np.int64),
        crowd=np.zeros(count, np.bool_),
        areas=np.full(count, nan),
        split=split,
        source_id=name,
        marks=np.array([number for *_, number in xml.boxes], np.int64),
        unit="object",
    )


class _Pictures:
    """A lookup of the pictures of xml files; each folder is listed only once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[Path, dict[str, Path]] = {}
        self._places: dict[Path, list[Path]] = {}

    def picture(self, xml: _XmlFile) -> Path:
        """Return the picture of an xml file: by the xml file's stem first, as the tag often has an outdated name."""
        tag = Path(xml.file.replace("\\", "/"))
        stem = xml.path.stem
        places = self._of(xml.path.parent)
        for wanted in (f"{stem}{tag.suffix}", stem, tag.name, tag.stem):
            if found := next(filter(None, (lookup(self._in(p), wanted) for p in places)), None):
                return found
        return places[0] / f"{stem}{tag.suffix if tag.suffix.lower() in SUFFIXES else '.jpg'}"

    def _in(self, place: Path) -> dict[str, Path]:
        """Return the pictures of a folder by name and by stem."""
        if place not in self._files:
            files = files_in(place, SUFFIXES) if place.is_dir() else []
            self._files[place] = {p.stem: p for p in reversed(files)} | {p.name: p for p in files}
        return self._files[place]

    def _of(self, folder: Path) -> list[Path]:
        """Return the picture folders for a folder of xml files: beside it or its parents, mirrored subfolders first."""
        if folder not in self._places:
            places, inner = [], Path()
            for below in (folder, *folder.parents):
                if below == self.root:
                    break
                inner = inner if below.name.lower() in ANNOTATION_FOLDERS else below.name / inner
                usual = [p for n, p in subfolders(below.parent).items() if n in PICTURE_FOLDERS]
                places += [q for p in usual for q in (p / inner, p)]
            beside = [folder] if folder == self.root else [folder, folder.parent]
            self._places[folder] = list(dict.fromkeys([*places, *beside]))
        return self._places[folder]


def _listed(root: Path, files: Sequence[Path], notes: Findings) -> dict[Path, str]:
    """Return the split of each xml file from ImageSets/Main/{train,val,test}.txt; empty if there are no such lists.

    trainval.txt is only used for files that are in no other list; lists of one class (``cat_train.txt``) are ignored.
    """
    sets = subfolders(root).get("imagesets", root / "ImageSets")
    folder = subfolders(sets).get("main", sets)
    meant = _by_name(root, files)
    listed: dict[Path, str] = {}
    for word, split in LISTS.items():
        file = folder / f"{word}.txt"
        lines = read_text(file).splitlines() if file.is_file() else []
        name = file.relative_to(root).as_posix()
        for number, line in ((i, line.strip()) for i, line in enumerate(lines, 1) if line.strip()):
            texts = (line, re.sub(r"\s+[+-]?[01]$", "", line))  # without VOC's second column
            found = next((meant[s] for text in texts for s in _spellings(nfc(text)) if s in meant), [])
            if len(found) != 1:
                several = ", ".join(path.relative_to(root).as_posix() for path in found[:5])
                detail = f"{line[:200]} matches {several}; write its folder too" if found else line[:200]
                notes.add("annotation-missing", name, f"line {number}", detail)
            elif listed.setdefault(found[0], split) != split and word != "trainval":
                detail = f"{line[:200]} is also in {listed[found[0]]}, and stays there"
                notes.add("picture-repeated", name, f"line {number}", detail)
    lost = [f for f in notes.found if f.kind == "annotation-missing"]
    if lost and not listed and not notes.lenient:
        raise DataError(f"{root}: its lists match no XML ({lost[0].file}: {lost[0].detail}); correct or remove them")
    return listed


def _by_name(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return xml files by path in the annotations folder, without suffix, and by stem unless that is such a path."""
    paths, stems = (defaultdict[str, list[Path]](list) for _ in range(2))
    for file in files:
        parts = file.relative_to(root).parts[:-1]
        inner = next((i + 1 for i, part in enumerate(parts) if part.lower() in ANNOTATION_FOLDERS), 0)
        paths[nfc("/".join((*parts[inner:], file.stem)))].append(file)
        stems[nfc(file.stem)].append(file)
    return {**stems, **paths}


def _spellings(line: str) -> Iterator[str]:
    """Yield the names that a line may mean, longest first: a path to a file or a stem, with fewer leading folders."""
    parts = line.replace("\\", "/").split("/")
    suffix = Path(parts[-1]).suffix.lower()
    for start in range(len(parts)):
        path = "/".join(parts[start:])
        yield path
        if suffix in {*SUFFIXES, ".xml"}:
            yield path[: -len(suffix)]


def _folder_split(root: Path, file: Path) -> str | None:
    """Return the split that the folders of an xml file indicate, the outermost first; None if there is none."""
    return next(filter(None, map(splits.named, file.relative_to(root).parts[:-1])), None)
