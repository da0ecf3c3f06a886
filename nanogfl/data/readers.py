"""Reading any annotated dataset into one table: detect the format, read picture sizes, correct the boxes.

The modules of the formats (``coco``, ``voc``, ``yolo``) read a dataset as annotated; what is common to them is here.
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

from nanogfl.boxes import areas
from nanogfl.data import coco, coco_files, data_yaml, voc, yolo
from nanogfl.data.box_frames import framed, in_its_frame, trusted_sizes
from nanogfl.data.findings import KINDS, Finding, Findings, listed
from nanogfl.data.folders import relative, subfolders
from nanogfl.data.headers import Header, read_header
from nanogfl.data.merge import mergeable, merged
from nanogfl.data.table import Example, Table
from nanogfl.errors import DataError

log = logging.getLogger(__name__)

FORMS = (
    "supported formats are COCO (a JSON, or a folder with JSONs for train/val/test), "
    "Pascal VOC (Annotations/*.xml) and YOLO (data.yaml, or images/ beside labels/); "
    "XML or TXT files may also be beside their pictures"
)
PIXELS = 2.0  # widths or heights of a picture; a box in fractions that ends further out is meant in pixels
EDGE = 1.0  # px; boxes over the edge by no more than this are rounding errors and not reported
HEADER_THREADS, HEADER_CHUNK = 8, 64  # threads hide disk latency; chunks, since a task costs as much as a header


def read_table(path: str | Path, lenient: bool = False) -> Table:
    """Read an annotated dataset: a JSON file, a data.yaml, or a folder in any known format.

    Sizes are those of the upright pictures, boxes lie inside them. What was corrected or left out is in
    ``Table.warnings``, and logged once per kind.

    Args:
        path: path of the dataset.
        lenient: note damaged annotation files without logging, instead of raising an error; the table may be empty.

    Raises:
        DataError: the path does not exist, the format is unknown, an annotation file is damaged, or no picture is
            usable.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(f"{root} does not exist; specify a folder of annotated pictures or its annotation file")
    notes = Findings(lenient)
    try:
        read = _read_file if root.is_file() else _read_folder
        return _finalise(read(root.absolute(), notes), notes)
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or root}: {error.strerror}; check names and permissions"
        ) from error


def _read_file(path: Path, notes: Findings) -> Table:
    if path.suffix.lower() == ".json":
        return coco.read_file(path, notes)
    if path.suffix.lower() in (".yaml", ".yml"):
        return yolo.read_config(path, notes)
    raise DataError(f"{path} is not an annotated dataset: {FORMS}")


def _read_folder(root: Path, notes: Findings) -> Table:
    """Read a folder in the first format that matches it or, as in unpacked archives, its only sub-folder."""
    table, place, inner = None, root, [root]
    while table is None and len(inner) == 1:
        table, place = _detect(inner[0], notes), inner[0]
        inner = list(subfolders(place).values())
    if table is not None:  # an empty table is false, too
        return table
    why = "; ".join(f.detail for f in notes.found)
    sets = [relative(f, root) for f in inner if voc.find(f) or yolo.find_folders(f)]
    if sets and not why:
        why = f"{root} is not an annotated dataset, but its folders are: {', '.join(sets[:5])}; choose one"
    raise DataError(
        why or f"{root} is {'not an annotated dataset' if any(root.iterdir()) else 'an empty folder'}: {FORMS}"
    )


def _detect(root: Path, notes: Findings) -> Table | None:
    """Read the folder in the first format that matches; labels beside the pictures last, as any file may be there."""
    table = notes.attempt("data.yaml", lambda: _by_config(root, notes), None)
    if table is not None:
        return table
    if files := voc.find(root):
        return voc.read(root, files, notes)
    if sources := coco_files.find(root, notes):
        return coco.read(root, sources, notes)
    if folders := yolo.find_folders(root):
        return yolo.read_folders(root, folders, notes)
    if files := voc.find_flat(root):
        return voc.read(root, files, notes)
    folders = yolo.find_flat(root)
    return yolo.read_folders(root, folders, notes, flat=True) if folders else None


def _by_config(root: Path, notes: Findings) -> Table | None:
    config = data_yaml.find_config(root)
    return yolo.read_config(config, notes) if config else None


def _finalise(table: Table, notes: Findings) -> Table:
    """Set the actual picture sizes, leave out what is not usable, and log what was corrected or left out."""
    examples = _sized(_without_duplicates(table.examples, notes), notes)
    examples = _with_sound_boxes(examples, table.names, table.form == "yolo", notes)
    settled = replace(table, examples=tuple(examples), findings=tuple(notes.found))
    if notes.lenient:
        return settled
    warned = settled.warnings
    told = [_summary(kind, [w for w in warned if w.kind == kind]) for kind in dict.fromkeys(w.kind for w in warned)]
    if not examples:
        raise DataError(f"{table.root} has no usable picture ({'; '.join(told) or 'none is listed'})")
    for line in told:
        plain = line.encode("utf-8", "backslashreplace").decode()  # names in JSON can hold lone surrogates
        log.warning("%s: %s", table.root.name, plain)
    return settled


def _summary(kind: str, found: Sequence[Finding]) -> str:
    first = found[0]
    where = ", ".join(filter(None, (first.file, first.where)))
    if len(found) == 1:
        return f"{KINDS[kind].phrase}: {where}: {first.detail}"
    return f"{len(found)} {KINDS[kind].phrase}, first in {where} (and {len(found) - 1} more): {first.detail}"


def _without_duplicates(examples: Sequence[Example], notes: Findings) -> list[Example]:
    """Return each picture once: one in several splits stays in the first, so none is both trained and tested on."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        group = groups.setdefault(example.name, [])
        if not group or mergeable(group[0], example):
            group.append(example)
            continue
        where = f" in {example.split}" if example.split else ""
        where += f" as {example.source_id}" if example.source_id != example.name else ""
        alike = example.split == group[0].split
        detail = f"listed twice{where}" if alike else f"listed{where}; it stays in {group[0].split}"
        notes.add("picture-repeated", example.name, "", detail)
    for group in groups.values():
        if len(group) > 1:
            ids = listed("id", [str(e.source_id)[:40] for e in group], 5)
            boxes = ", ".join(str(len(e.boxes)) for e in group[:5])
            notes.add("picture-merged", group[0].name, ids, f"{len(group)} entries of {boxes} boxes")
    return [merged(group) for group in groups.values()]


def _sized(examples: Sequence[Example], notes: Findings) -> list[Example]:
    """Return the examples with the upright size of their pictures in px, without those that cannot be read."""
    with warnings.catch_warnings(), ThreadPoolExecutor(HEADER_THREADS) as pool:
        warnings.simplefilter("ignore")  # from Pillow, on large pictures and invalid EXIF
        paths = [e.path for e in examples]
        chunks = [paths[i : i + HEADER_CHUNK] for i in range(0, len(paths), HEADER_CHUNK)]
        headers = [head for part in pool.map(lambda chunk: [*map(read_header, chunk)], chunks) for head in part]
    known = [(e, head) for e, head in zip(examples, headers, strict=True) if isinstance(head, Header)]
    trusted = trusted_sizes(framed(e, head) for e, head in known if all((e.width, e.height)))
    sized = []
    for example, head in zip(examples, headers, strict=True):
        if isinstance(head, Finding):
            notes.add(head.kind, example.name, "", head.detail)
            continue
        example = in_its_frame(example, head, trusted, notes)
        sized.append(replace(example, width=head.upright[0], height=head.upright[1]))
    return sized


def _with_sound_boxes(examples: list[Example], names: Sequence[str], fractions: bool, notes: Findings) -> list[Example]:
    """Convert boxes to pixels, clip them to their picture and drop invalid ones, all in one array for speed."""
    if not examples:
        return []
    counts = np.array([len(e.boxes) for e in examples])
    owner = np.repeat(np.arange(len(examples)), counts)
    limits = np.array([(e.width, e.height, e.width, e.height) for e in examples], np.float64)[owner]
    given = np.concatenate([e.boxes for e in examples])
    labels = np.concatenate([e.labels for e in examples])
    with np.errstate(over="ignore", invalid="ignore"):
        boxes = given * limits if fractions else given
        cut = np.clip(boxes, 0, limits)
        flaws = _flaws(boxes, cut, np.asarray((given > PIXELS).any(axis=1) & fractions))
    for kind, rows in flaws.items():
        for i in np.flatnonzero(rows):
            example, box = examples[owner[i]], (given if kind == "box-in-pixels" else boxes)[i]
            corners = [round(v, 2) for v in box.tolist()]
            row = i - counts[: owner[i]].sum()
            notes.add(kind, example.name, example.mark(row), f"{names[labels[i]]} {corners}")
    lost = [rows for kind, rows in flaws.items() if kind != "box-clipped"]
    return list(_split_by_example(examples, counts, cut, ~np.any(lost, axis=0)))


def _flaws(
    boxes: NDArray[np.float64], cut: NDArray[np.float64], far: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    """Return which boxes have each kind of flaw, bool [N]; no box has two. ``far``: those that look like pixels."""
    whole = np.asarray(np.isfinite(boxes).all(axis=1))
    finite = whole & ~far
    real = finite & np.asarray(areas(boxes) > 0)
    inverted = finite & ((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
    visible = real & np.asarray(areas(cut) > 0)
    return {
        "box-not-finite": ~whole,
        "box-in-pixels": whole & far,
        "box-inverted": inverted,
        "box-without-area": finite & ~real & ~inverted,
        "box-outside": real & ~visible,
        "box-clipped": visible & (np.abs(boxes - cut) > EDGE).any(axis=1),
    }


def _split_by_example(
    examples: Sequence[Example], counts: NDArray[np.int64], boxes: NDArray[np.float64], keep: NDArray[np.bool_]
) -> Iterator[Example]:
    """Split the boxes by example and keep the valid rows; set areas that were not annotated to width x height."""
    start = 0
    for example, count in zip(examples, counts, strict=True):
        rows = slice(start, start + count)
        kept = replace(example, boxes=boxes[rows]).keeping(keep[rows])
        yield replace(kept, areas=np.where(np.isfinite(kept.areas), kept.areas, areas(kept.boxes)))
        start += count
