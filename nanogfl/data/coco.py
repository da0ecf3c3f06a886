"""COCO's json: one file, or one a split."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nanogfl.data import coco_ids, splits
from nanogfl.data.coco_ids import Key, key_of
from nanogfl.data.findings import Findings
from nanogfl.data.table import SPLITS, Example, Table
from nanogfl.errors import DataError

log = logging.getLogger(__name__)

Record = dict[str, Any]
NUMBERS = frozenset({int, float})  # and no bool
LISTS = ("images", "annotations", "categories")
ANNOTATION_FOLDERS = ("annotations", "annotation")
PICTURE_FOLDERS = ("images", "data", "jpegimages")


@dataclass(frozen=True)
class Source:
    """One json, read, and the split that it holds."""

    path: Path
    split: str | None
    document: Record


def read_file(path: Path, notes: Findings) -> Table:
    """Read this one json as ``read`` does. Raises DataError where it is no COCO json."""
    root = path.parent.parent if path.parent.name.lower() in ANNOTATION_FOLDERS else path.parent
    source = Source(path, splits.named(path.stem), _load(path))
    _check(source)
    return read(root, [source], notes)


def find(root: Path, notes: Findings) -> list[Source]:
    """Find the COCO jsons in a folder, its annotations folder and its splits' folders; none where there are none.

    Where names speak of splits, the other jsons are no part of the set.
    """
    folders = splits.subfolders(root)
    files = [(p, splits.named(p.stem)) for p in sorted(root.glob("*.json"))]
    for name, folder in folders.items():
        split = splits.named(name)
        if split or name in ANNOTATION_FOLDERS:
            files += [(p, splits.named(p.stem) or split) for p in sorted(folder.glob("*.json"))]
    chosen = [f for f in files if f[1]] or files
    sources = [s for split in (*SPLITS, None) for s in _of_split([p for p, of in chosen if of == split], split, notes)]
    if len(sources) > 1 and sources[0].split is None:
        names = ", ".join(s.path.name for s in sources[:5])
        raise DataError(f"{root} holds several COCO jsons ({names}) whose names say no split; give one of them")
    return sources


def read(root: Path, sources: list[Source], notes: Findings) -> Table:
    """One set of all these checked jsons as annotated: sizes may be 0, boxes are unchecked, pictures unread."""
    names, index = _categories(sources, notes)
    for source in sources:
        coco_ids.look(source.path.name, source.document, notes)
    examples = [e for s in sources for e in _examples(root, s, index, notes)]
    return Table(root, "coco", names, tuple(examples))


def _of_split(paths: list[Path], split: str | None, notes: Findings) -> Iterator[Source]:
    """Load the jsons of one split: instances before captions and key points, train before trainval."""
    paths = [p for p in paths if "instances" in p.stem.lower()] or paths
    paths = [p for p in paths if "trainval" not in p.stem.lower()] or paths
    for path in paths:
        source = notes.attempt(path.name, lambda path=path: _source(path, split), None)
        if source:
            yield source


def _source(path: Path, split: str | None) -> Source | None:
    """Load a json and look at its lists; None where it is something else's. Raises DataError where it is damaged."""
    document = _load(path)
    if not isinstance(document, dict) or "images" not in document or "annotations" not in document:
        log.info("%s holds no boxes in COCO's form; it is left out", path)
        return None
    source = Source(path, split, document)
    _check(source)
    return source


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the file") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid json: {error}; export the annotations again") from error


def _check(source: Source) -> None:
    """Raise DataError unless the three lists of the form are there."""
    document = source.document
    if not isinstance(document, dict):
        raise DataError(f"{source.path} is no COCO json: an object with the lists {', '.join(LISTS)} is expected")
    for name in LISTS:
        if not isinstance(document.get(name), list):
            found = type(document[name]).__name__ if name in document else "missing"
            raise DataError(f"{source.path} is no COCO json: {name!r} must be a list, it is {found}")


def _categories(sources: list[Source], notes: Findings) -> tuple[tuple[str, ...], dict[Key | None, int]]:
    """All class names by category id, and where each id stands among them; a name listed twice is one class."""
    by_id: dict[Key, str] = {}
    ids: dict[str, set[Key]] = {}
    for source in sources:
        own = notes.attempt(source.path.name, lambda source=source: _own_categories(source, by_id), {})
        for name, keys in own.items():
            if ids.setdefault(name, keys) != keys:
                raise DataError(f"{source.path}: class {name!r} has another category id than in the set's other jsons")
    order = sorted(by_id, key=lambda k: (isinstance(k, str), k))
    names = tuple(dict.fromkeys(by_id[k] for k in order))
    if not names:
        raise DataError(f"{sources[0].path} lists no categories; export the annotations with their classes")
    if len(names) < len(by_id):
        repeated = ", ".join(n for n, keys in ids.items() if len(keys) > 1)
        notes.add("class-repeated", sources[0].path.name, "categories", f"{repeated} has several category ids")
    return names, {k: names.index(by_id[k]) for k in order}


def _own_categories(source: Source, by_id: dict[Key, str]) -> dict[str, set[Key]]:
    """The ids of each class name in one json; ``by_id`` grows."""
    own: dict[str, set[Key]] = defaultdict(set)
    for key, name in (_category(source, entry) for entry in source.document["categories"]):
        own[name].add(key)
        if by_id.setdefault(key, name) != name:
            raise DataError(f"{source.path}: category {key} is both {by_id[key]!r} and {name!r}; export again")
    return own


def _category(source: Source, entry: object) -> tuple[Key, str]:
    key = key_of(entry.get("id")) if isinstance(entry, dict) else None
    name = entry.get("name") if isinstance(entry, dict) else None
    if key is None or isinstance(name, bool) or not isinstance(name, str | int | float) or name == "":
        raise DataError(f"{source.path}: category {str(entry)[:80]} needs an id and a name; add them")
    return key, str(name)


def _examples(root: Path, source: Source, index: Mapping[Key | None, int], notes: Findings) -> Iterator[Example]:
    """One example a listed picture; annotations find theirs by image id."""
    images = _images(source, notes)
    rows = _rows(source, images, index, notes)
    folders = _picture_folders(root, source)
    for key, (record, file) in images.items():
        if file is None:
            continue
        path = _find_picture(file, folders)
        own = rows.get(key, ())
        table = np.array([row for row, _ in own], np.float64).reshape(-1, 7)
        yield Example(
            path=path,
            name=path.relative_to(root).as_posix(),
            width=_side(record.get("width")),
            height=_side(record.get("height")),
            marks=np.array([mark for _, mark in own], np.int64),
            unit="annotation",
            boxes=table[:, :4],
            labels=table[:, 4].astype(np.int64),
            crowd=table[:, 5] != 0,
            areas=table[:, 6],
            split=source.split,
            source_id=record["id"] if isinstance(record["id"], int | str) else key,
        )


def _images(source: Source, notes: Findings) -> dict[Key, tuple[Record, PurePosixPath | None]]:
    """Image records and file names by id; the file name is None where it must not be followed."""
    images: dict[Key, tuple[Record, PurePosixPath | None]] = {}
    for number, record in enumerate(source.document["images"]):
        key = key_of(record.get("id")) if isinstance(record, dict) else None
        file = record.get("file_name") if isinstance(record, dict) else None
        if key is None or not isinstance(file, str) or not file:
            notes.add("image-malformed", source.path.name, f"entry {number} of images", str(record)[:80])
        elif key in images:
            detail = f"{file[:200]} has the id of {images[key][0]['file_name'][:200]}"
            notes.add("image-repeated", source.path.name, f"image {str(key)[:40]}", detail)
        else:
            images[key] = record, _inside(file)
            if images[key][1] is None:
                notes.add("picture-outside", source.path.name, f"image {str(key)[:40]}", file[:200])
            elif not (_side(record.get("width")) and _side(record.get("height"))):
                size = f"{str(record.get('width'))[:20]}x{str(record.get('height'))[:20]}"
                notes.add("size-missing", source.path.name, f"image {str(key)[:40]}", f"{file[:200]}: {size}")
    return images


def _inside(file: str) -> PurePosixPath | None:
    """Read a file name as a relative path that stays where it starts; None where it does not."""
    path = PurePosixPath(file.replace("\\", "/"))
    harmful = not path.parts or path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":") or "\0" in file
    return None if harmful else path


def _rows(
    source: Source, images: Mapping[Key, object], index: Mapping[Key | None, int], notes: Findings
) -> dict[Key, list[tuple[tuple[float, ...], int]]]:
    """Every usable annotation by image id: x1 y1 x2 y2 label crowd area (NaN where none is given), and its mark."""
    rows: dict[Key, list[tuple[tuple[float, ...], int]]] = defaultdict(list)
    for number, record in enumerate(source.document["annotations"]):
        if not isinstance(record, dict):
            notes.add("box-malformed", source.path.name, f"entry {number} of annotations", str(record)[:80])
            continue
        box, image = _box(record.get("bbox")), key_of(record.get("image_id"))
        position = index.get(key_of(record.get("category_id")), -1)
        if image is None or image not in images or position < 0 or box is None:
            kind = "image-unknown" if image not in images else "class-unknown" if position < 0 else "box-malformed"
            where = f"annotation {str(record.get('id', number))[:40]}"
            notes.add(kind, source.path.name, where, _excerpt(record))
            continue
        crowd = record.get("iscrowd") in (1, "1") or record.get("ignore") in (1, "1")
        key = key_of(record.get("id"))
        mark = key if isinstance(key, int) and 0 <= key < 2**63 else -1 - number
        rows[image].append(((*box, position, crowd, _area(record.get("area"))), mark))
    return rows


def _box(value: object) -> tuple[float, float, float, float] | None:
    """COCO's x y width height as corners; None where it is not four numbers."""
    if not isinstance(value, list) or len(value) != 4 or not NUMBERS.issuperset(map(type, value)):
        return None
    try:
        x, y, width, height = map(float, value)
    except OverflowError:
        return inf, inf, inf, inf
    return x, y, x + width, y + height


def _area(value: object) -> float:
    """Read an annotated area; NaN where it is none (many tools write 0 for not known)."""
    return float(value) if type(value) in (int, float) and 0 < value < inf else nan  # pyright: ignore


def _excerpt(record: Record) -> str:
    return str({k: record.get(k) for k in ("image_id", "category_id", "bbox")})[:120]


def _side(value: object) -> int:
    """Read an annotated width or height in px; 0 where it is none."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else 0


def _picture_folders(root: Path, source: Source) -> list[Path]:
    """Where this json's pictures may lie, the likeliest first: its split's folders, beside it, the usual places."""
    usual = [f for n, f in splits.subfolders(root).items() if n in PICTURE_FOLDERS]
    inner = [f for place in (root, *usual) for f in splits.subfolders(place).values() if f not in usual]
    own = [f for f in inner if source.split and splits.named(f.name) == source.split]
    exact = [f for f in own if source.path.stem.endswith(f.name)]
    others = [f for f in inner if not splits.named(f.name) and f.name.lower() not in ANNOTATION_FOLDERS]
    return list(dict.fromkeys([*exact, *own, source.path.parent, root, *usual, *others]))


def _find_picture(file: PurePosixPath, folders: list[Path]) -> Path:
    """Look for the file in these folders; where none has it, name its place in the first."""
    for folder in folders:
        with contextlib.suppress(OSError):  # a name that no file system takes
            if (path := folder / file).is_file():
                return path
    return folders[0] / file
