"""Reader of COCO datasets: one JSON file, or one per split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path

import numpy as np

from nanogfl.data import coco_ids
from nanogfl.data.coco_categories import Places, read_categories
from nanogfl.data.coco_files import Record, Source, open_file
from nanogfl.data.coco_ids import Key, key_of
from nanogfl.data.coco_pictures import Found, find_pictures, misleading
from nanogfl.data.findings import Findings
from nanogfl.data.folders import ANNOTATION_FOLDERS
from nanogfl.data.table import Example, Table

NUMBERS = frozenset({int, float})  # not bool, which is a subclass of int
MOST_AREA = 1e18  # px²; integers in JSON may be too large for a float


@dataclass(frozen=True)
class _Image:
    """A valid entry of the JSON list ``images``: it has an id and a file name."""

    key: Key
    file: str
    record: Record


def read_file(path: Path, notes: Findings) -> Table:
    """Read one JSON file as ``read`` does. Raises DataError if it is not a COCO JSON file."""
    root = path.parent.parent if path.parent.name.lower() in ANNOTATION_FOLDERS else path.parent
    return read(root, [open_file(path, root)], notes)


def read(root: Path, sources: Sequence[Source], notes: Findings) -> Table:
    """Read validated JSON files as one dataset, as annotated: sizes may be 0, boxes are unchecked, pictures unread."""
    names, places = read_categories(sources, notes)
    for source in sources:
        coco_ids.look(source.name, source.document, notes)
    images = [list(_images(source, notes)) for source in sources]
    paths = find_pictures(root, sources, [[image.file for image in own] for own in images], notes.lenient)
    examples = [
        example
        for source, own, found, place in zip(sources, images, paths, places, strict=True)
        for example in _examples(root, source, list(_located(root, source, own, found, notes)), place, notes)
    ]
    return Table(root, "coco", names, tuple(examples))


def _images(source: Source, notes: Findings) -> Iterator[_Image]:
    """Yield the valid entries of ``images``, without repetitions; note the others."""
    seen: set[tuple[Key, str]] = set()
    for number, record in enumerate(source.document["images"]):
        key = key_of(record.get("id")) if isinstance(record, dict) else None
        file = record.get("file_name") if isinstance(record, dict) else None
        if key is None or not isinstance(file, str) or not file:
            notes.add("image-malformed", source.name, f"entry {number} of images", str(record)[:80])
        elif (key, file) in seen:
            detail = f"entry {number} repeats {file[:200]}"
            notes.add("picture-repeated", source.name, f"image {str(key)[:40]}", detail)
        else:
            seen.add((key, file))
            yield _Image(key, file, record)


def _located(
    root: Path, source: Source, images: Sequence[_Image], paths: Found, notes: Findings
) -> Iterator[tuple[_Image, Path | None]]:
    """Yield each entry with the path of its picture; None if the path is unusable or the id is not unique."""
    shared = _shared_ids(root, source, images, paths, notes)
    for image in images:
        path, where = paths[image.file], f"image {str(image.key)[:40]}"
        if image.key in shared:
            yield image, None
            continue
        if isinstance(path, tuple):
            several = ", ".join(p.relative_to(root).as_posix()[:80] for p in path[:5])
            notes.add("picture-ambiguous", source.name, where, f"{image.file[:200]} matches {several}")
            yield image, None
            continue
        if path is None:
            notes.add("picture-outside", source.name, where, image.file[:200])
        elif not (_side(image.record.get("width")) and _side(image.record.get("height"))):
            size = f"{str(image.record.get('width'))[:20]}x{str(image.record.get('height'))[:20]}"
            notes.add("size-missing", source.name, where, f"{image.file[:200]}: {size}")
        if path and misleading(image.file, path):
            name = path.relative_to(root).as_posix()
            notes.add("path-misleading", source.name, where, f"names {image.file[:200]}, but its picture is {name}")
        yield image, path


def _shared_ids(root: Path, source: Source, images: Sequence[_Image], paths: Found, notes: Findings) -> set[Key]:
    """Return the ids that several pictures share; these pictures are left out, since their boxes cannot be assigned."""
    files: dict[Key, list[str]] = defaultdict(list)
    for image in images:
        files[image.key].append(image.file)
    shared = {key for key, names in files.items() if len(names) > 1}
    for image in images:
        if image.key in shared:
            path = paths[image.file]
            name = path.relative_to(root).as_posix() if isinstance(path, Path) else source.name
            others = ", ".join(file[:80] for file in files[image.key][:5] if file != image.file)
            detail = f"{source.name} gives {image.file[:80]} the id of {others}; their boxes are left out"
            notes.add("image-repeated", name, f"image {str(image.key)[:40]}", detail)
    return shared


def _examples(
    root: Path, source: Source, images: Sequence[tuple[_Image, Path | None]], places: Places, notes: Findings
) -> Iterator[Example]:
    """Yield one example per entry that has a path; its annotations are those with its image id."""
    rows = _rows(source, {image.key for image, _ in images}, places, notes)
    for image, path in images:
        if path is None:
            continue
        own, record = rows.get(image.key, ()), image.record
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
            source_id=record["id"] if isinstance(record["id"], int | str) else image.key,
        )


def _rows(
    source: Source, images: Collection[Key], places: Places, notes: Findings
) -> dict[Key, list[tuple[tuple[float, ...], int]]]:
    """Return the usable annotations by image id: (x1 y1 x2 y2 label crowd area, mark); area is NaN if not given."""
    rows: dict[Key, list[tuple[tuple[float, ...], int]]] = defaultdict(list)
    for number, record in enumerate(source.document["annotations"]):
        if not isinstance(record, dict):
            notes.add("box-malformed", source.name, f"entry {number} of annotations", str(record)[:80])
            continue
        box, image = _box(record.get("bbox")), key_of(record.get("image_id"))
        position = places.get(key_of(record.get("category_id")), -1)
        if image is None or image not in images or position < 0 or box is None:
            kind = "image-unknown" if image not in images else "class-unknown" if position < 0 else "box-malformed"
            where = f"annotation {str(record.get('id', number))[:40]}"
            notes.add(kind, source.name, where, _excerpt(record))
            continue
        crowd = record.get("iscrowd") in (1, "1") or record.get("ignore") in (1, "1")
        key = key_of(record.get("id"))
        mark = key if isinstance(key, int) and 0 <= key < 2**63 else -1 - number
        rows[image].append(((*box, position, crowd, _area(record.get("area"))), mark))
    return rows


def _box(value: object) -> tuple[float, float, float, float] | None:
    """Parse COCO's x y width height into corners x1 y1 x2 y2; return None if it is not a list of four numbers."""
    if not isinstance(value, list) or len(value) != 4 or not NUMBERS.issuperset(map(type, value)):
        return None
    try:
        x, y, width, height = map(float, value)
    except OverflowError:
        return inf, inf, inf, inf
    return x, y, x + width, y + height


def _area(value: object) -> float:
    """Parse an annotated area (px²); return NaN if it is not valid (many tools write 0 for an unknown area)."""
    return float(value) if type(value) in (int, float) and 0 < value < MOST_AREA else nan  # pyright: ignore


def _excerpt(record: Record) -> str:
    return str({k: record.get(k) for k in ("image_id", "category_id", "bbox")})[:120]


def _side(value: object) -> int:
    """Parse an annotated width or height (px); return 0 if it is not a valid number."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else 0
