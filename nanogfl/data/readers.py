"""Any annotated set as one table: finds out its form, looks at its pictures, puts its boxes right.

The files of the forms (``coco``, ``voc``, ``yolo``) give a set as annotated; what holds for all forms is here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nanogfl.boxes import areas
from nanogfl.data import coco, splits, voc, yolo
from nanogfl.data.table import Example, Table, Warned
from nanogfl.errors import DataError
from nanogfl.pictures import read_picture

log = logging.getLogger(__name__)

FORMS = (
    "known forms are COCO (a json, or a folder with jsons for train/val/test), "
    "Pascal VOC (Annotations/*.xml) and YOLO (data.yaml, or images/ beside labels/)"
)
KINDS = {
    "annotation-missing": "listed pictures without an annotation left out",
    "box-clipped": "boxes over the edge of their picture cut to it",
    "box-malformed": "annotations that are no box left out",
    "box-not-finite": "boxes with NaN or infinite sides left out",
    "box-outside": "boxes wholly outside their picture left out",
    "box-without-area": "boxes without area left out",
    "class-repeated": "class names listed twice made one class",
    "class-unknown": "boxes of an unknown class left out",
    "image-malformed": "entries of pictures without a usable id and file name left out",
    "image-repeated": "entries with an id that another picture has left out",
    "image-unknown": "boxes of pictures that are not listed left out",
    "path-corrected": "paths that are wrong by a level followed",
    "picture-missing": "pictures whose file is missing left out",
    "picture-outside": "pictures that lie outside the set's folder left out",
    "picture-repeated": "pictures that are listed again left out there",
    "picture-unlabelled": "pictures of a split without any labels left out",
    "picture-unlisted": "pictures that no split lists left out",
    "picture-unreadable": "pictures that cannot be read left out",
    "size-differs": "annotated picture sizes that are not the file's put right",
    "split-missing": "splits whose place is missing left out",
}
EDGE = 1.0  # px; a box that reaches less over the edge was only rounded
ORIENTATION = 0x0112  # EXIF; values from 5 on lie on their side
HEADER_THREADS, HEADER_CHUNK = 8, 64  # threads for slow disks, chunks because a task costs as much as a header


def read_table(path: str | Path) -> Table:
    """Read an annotated set: a json, a data.yaml, or a folder in any form that is known.

    Sizes are those of the upright pictures, boxes lie inside them. What was put right or left out is in
    ``Table.warnings``, and in the log once a kind.

    Raises:
        DataError: nothing there, no known form, a damaged annotation file, or no picture that can be used.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(f"there is no {root}; give a folder of annotated pictures or its annotation file")
    try:
        table = _read_file(root.absolute()) if root.is_file() else _read_folder(root.absolute())
        return _settled(table)
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or root}: {error.strerror}; check names and permissions"
        ) from error


def _read_file(path: Path) -> Table:
    if path.suffix.lower() == ".json":
        return coco.read_file(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return yolo.read_config(path)
    raise DataError(f"{path} is no annotated set: {FORMS}")


def _read_folder(root: Path) -> Table:
    """Read the first form that the folder shows, or its only sub-folder does (as archives unpack)."""
    if config := yolo.find_config(root):
        return yolo.read_config(config)
    if files := voc.find(root):
        return voc.read(root, files)
    if sources := coco.find(root):
        return coco.read(root, sources)
    if folders := yolo.find_folders(root):
        return yolo.read_folders(root, folders)
    inner = list(splits.subfolders(root).values())
    if len(inner) == 1:
        return _read_folder(inner[0])
    raise DataError(f"{root} is {'no annotated set' if any(root.iterdir()) else 'an empty folder'}: {FORMS}")


def _settled(table: Table) -> Table:
    """Give every picture its own size, leave out what cannot be used, and tell the log what that was."""
    warned = list(table.warnings)
    examples = _sized(_once(table.examples, warned), warned)
    examples = _with_sound_boxes(examples, table.names, table.form == "yolo", warned)
    notes = [_summary(kind, [w for w in warned if w.kind == kind]) for kind in dict.fromkeys(w.kind for w in warned)]
    if not examples:
        raise DataError(f"{table.root} has no picture that can be used ({'; '.join(notes) or 'none is listed'})")
    for note in notes:
        log.warning("%s: %s", table.root.name, note)
    return replace(table, examples=tuple(examples), warnings=tuple(warned))


def _summary(kind: str, found: Sequence[Warned]) -> str:
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{len(found)} {KINDS.get(kind, kind)}, first in {found[0].where}{more}: {found[0].detail}"


def _once(examples: Sequence[Example], warned: list[Warned]) -> list[Example]:
    """Each picture once: a picture of several splits stays in the first, so that none is both taught and judged."""
    first: dict[str, Example] = {}
    for example in examples:
        if first.setdefault(example.name, example) is not example:
            detail = f"as {example.source_id}, in {example.split or 'the same list'}"
            warned.append(Warned("picture-repeated", example.name, detail))
    return list(first.values())


def _sized(examples: Sequence[Example], warned: list[Warned]) -> list[Example]:
    """Every example with its picture's upright size in px; those without a readable picture are left out."""
    with warnings.catch_warnings(), ThreadPoolExecutor(HEADER_THREADS) as pool:
        warnings.simplefilter("ignore")  # Pillow's, of large pictures and crooked EXIF
        paths = [e.path for e in examples]
        chunks = [paths[i : i + HEADER_CHUNK] for i in range(0, len(paths), HEADER_CHUNK)]
        sizes = [size for part in pool.map(lambda chunk: [*map(_upright_size, chunk)], chunks) for size in part]
    sized = []
    for example, size in zip(examples, sizes, strict=True):
        if isinstance(size, Warned):
            warned.append(replace(size, where=example.name))
            continue
        width, height = size
        if example.width and example.height and (example.width, example.height) != size:
            detail = f"annotated as {example.width}x{example.height}, the file is {width}x{height}"
            warned.append(Warned("size-differs", example.name, detail))
        sized.append(replace(example, width=width, height=height))
    return sized


def _upright_size(path: Path) -> tuple[int, int] | Warned:
    """Width and height in px as ``read_picture`` will give them, from the header alone where Pillow knows it."""
    try:
        with Image.open(path) as picture:
            exif = Image.Exif()
            exif.load(picture.info.get("exif", b""))  # not getexif(), which decodes a whole PNG to look behind it
            width, height = picture.size
            lying = picture.format != "TIFF" and exif.get(ORIENTATION, 1) in (5, 6, 7, 8)
            return (height, width) if lying else (width, height)
    except Exception as error:  # Pillow's plugins raise whatever a damaged header makes them raise
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return Warned("picture-missing", "", f"there is no {path}")
    try:
        height, width = read_picture(path).shape[:2]
    except (DataError, ValueError) as error:
        return Warned("picture-unreadable", "", str(error))
    return width, height


def _with_sound_boxes(
    examples: list[Example], names: Sequence[str], fractions: bool, warned: list[Warned]
) -> list[Example]:
    """Boxes in pixels, cut to their picture, without those that are none; all in one array, for speed."""
    if not examples:
        return []
    counts = [len(e.boxes) for e in examples]
    owner = np.repeat(np.arange(len(examples)), counts)
    limits = np.array([(e.width, e.height, e.width, e.height) for e in examples], np.float64)[owner]
    boxes = np.concatenate([e.boxes for e in examples])
    labels = np.concatenate([e.labels for e in examples])
    with np.errstate(over="ignore", invalid="ignore"):
        boxes = boxes * limits if fractions else boxes
        cut = np.clip(boxes, 0, limits)
        flaws = _flaws(boxes, cut)
    for kind, rows in flaws.items():
        for i in np.flatnonzero(rows):
            corners = [round(v, 2) for v in boxes[i].tolist()]
            warned.append(Warned(kind, examples[owner[i]].name, f"{names[labels[i]]} {corners}"))
    keep = ~(flaws["box-not-finite"] | flaws["box-without-area"] | flaws["box-outside"])
    return list(_parted(examples, counts, cut, keep))


def _flaws(boxes: NDArray[np.float64], cut: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Which boxes have which flaw: bool [N] by kind, none in two."""
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    real = finite & np.asarray(areas(boxes) > 0)
    visible = real & np.asarray(areas(cut) > 0)
    return {
        "box-not-finite": ~finite,
        "box-without-area": finite & ~real,
        "box-outside": real & ~visible,
        "box-clipped": visible & (np.abs(boxes - cut) > EDGE).any(axis=1),
    }


def _parted(
    examples: Sequence[Example], counts: Sequence[int], boxes: NDArray[np.float64], keep: NDArray[np.bool_]
) -> Iterator[Example]:
    """Give each example its rows back; an area that was not annotated becomes width x height."""
    start = 0
    for example, count in zip(examples, counts, strict=True):
        kept = keep[start : start + count]
        own = boxes[start : start + count][kept]
        annotated = example.areas[kept]
        yield replace(
            example,
            boxes=own,
            labels=example.labels[kept],
            crowd=example.crowd[kept],
            areas=np.where(np.isfinite(annotated), annotated, areas(own)),
        )
        start += count
