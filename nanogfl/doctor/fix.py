"""Writing a cleaned copy of a dataset: COCO JSON and pictures by split, with all fixable problems fixed."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from nanogfl.atomic import write_json
from nanogfl.data.exif import upright
from nanogfl.data.table import SPLITS, Example, Table
from nanogfl.doctor.boxes import same_boxes
from nanogfl.doctor.check import Checkup
from nanogfl.doctor.inspection import Inspection
from nanogfl.doctor.labels import boxes_by_class, canonical_names
from nanogfl.doctor.names import plain_name
from nanogfl.doctor.pictures import SUFFIXES, good_suffix
from nanogfl.errors import DataError, UsageError, counted
from nanogfl.members import pack, read_bytes
from nanogfl.pictures import read_picture, write_picture


def write_copy(found: Checkup, out: Path, shards: int | None = None) -> str:
    """Write the cleaned copy atomically into a new folder; return one line on its content. The original is unchanged.

    Left out: damaged pictures, exact copies of a picture, near copies of one in an earlier split, duplicate boxes.
    Fixed: spellings of classes, file names, suffixes, ids, sizes, and the orientation of pictures.

    Args:
        found: the dataset and its problems.
        out: the folder to create.
        shards: pictures per tar archive; None: write each picture as a file of its own.

    Raises:
        UsageError: ``out`` exists and is not an empty folder, or lies inside the dataset.
        DataError: no picture would be left.
    """
    out = out.absolute()
    check_place(found.table, out)
    kept = list(_kept(found))
    if not kept:
        raise DataError(f"{found.table.root} has no usable picture, so there is nothing to copy")
    out.parent.mkdir(parents=True, exist_ok=True)
    # A random name, as a predictable one might exist already. Only its owner can access it, hence the folder inside.
    with TemporaryDirectory(dir=out.parent, prefix=".nanogfl-copy-", ignore_cleanup_errors=True) as ours:
        partial = Path(ours) / "copy"
        boxes = sum(_write_split(found, partial, split, kept, shards) for split in (*SPLITS, None))
        if out.exists():
            out.rmdir()  # it was empty; raises an error if it no longer is
        partial.rename(out)
    before, after = ({e.split for e in examples} for examples in (found.table.examples, (e for e, _ in kept)))
    gone = ", ".join(split for split in SPLITS if split in before - after)
    empty = f"; no picture is left in {gone}: all are damaged, or copies of others" if gone else ""
    return f"{out}, {len(kept)} of {counted(len(found.table), 'picture')}, {counted(boxes, 'box')}{empty}"


def check_place(table: Table, out: Path) -> None:
    """Raise UsageError if the copy would overwrite something, or lie inside the dataset."""
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise UsageError(f"{out} already exists; use a new folder for --fix")
    if out.resolve().is_relative_to(table.root.resolve()):
        raise UsageError(f"{out} is inside the dataset, which is never modified; use a folder outside of it for --fix")


def _kept(found: Checkup) -> Iterator[tuple[Example, Inspection]]:
    """Yield the intact pictures except exact copies, and except near copies of a picture in another split."""
    examples = found.table.examples
    again = {t.index for t in found.duplicates if t.same_bytes or examples[t.index].split != examples[t.other].split}
    for index, (example, inspection) in enumerate(zip(examples, found.inspections, strict=True)):
        if not inspection.flaw and index not in again:
            yield example, inspection


def _write_split(
    found: Checkup, out: Path, split: str | None, kept: list[tuple[Example, Inspection]], shards: int | None
) -> int:
    """Write the pictures and the JSON file of one split; return the number of its boxes."""
    mine = [(e, inspection) for e, inspection in kept if e.split == split]
    if not mine:
        return 0
    names, place = _classes(found)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    files = _write_pictures(mine, out / (split or "images"), shards)
    for number, ((example, _), file) in enumerate(zip(mine, files, strict=True), 1):
        images.append({"id": number, "file_name": file, "width": example.width, "height": example.height})
        for record in _records(example, place):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **record})
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    write_json(out / "annotations" / f"instances{f'_{split}' if split else ''}.json", document)
    return len(annotations)


def _write_pictures(mine: list[tuple[Example, Inspection]], folder: Path, shards: int | None) -> Iterator[str]:
    """Write the pictures of one split; yield the name of each, relative to the folder."""
    taken: set[str] = set()
    folder.mkdir(parents=True)
    size = shards or len(mine)
    for first in range(0, len(mine), size):
        names = [_free_name(example, inspection, taken) for example, inspection in mine[first : first + size]]
        for (example, inspection), name in zip(mine[first:], names, strict=False):
            _copy(example.path, folder / name, inspection)
        if shards is None:
            yield from names
        else:
            tar = folder / f"{first // size:06d}.tar"
            pack([folder / name for name in names], tar)
            yield from (f"{tar.name}/{name}" for name in names)


def _classes(found: Checkup) -> tuple[list[str], list[int]]:
    """Return the class names, with one spelling each, and the category id of each label of the dataset."""
    best = canonical_names(found.table.names, boxes_by_class(found.table))
    names = list(dict.fromkeys(best[name] for name in found.table.names))
    return names, [names.index(best[name]) + 1 for name in found.table.names]


def _records(example: Example, place: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the COCO annotations of one picture, without duplicate boxes."""
    categories = np.array(place, np.int64)[example.labels]
    again = {b for a, b in same_boxes(example, categories) if categories[a] == categories[b]}
    for row in (i for i in range(len(categories)) if i not in again):
        x1, y1, x2, y2 = (round(float(v), 3) for v in example.boxes[row])
        yield {
            "category_id": int(categories[row]),
            "bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
            "area": round(float(example.areas[row]), 3),
            "iscrowd": int(example.crowd[row]),
        }


def _free_name(example: Example, inspection: Inspection, taken: set[str]) -> str:
    """Return a plain file name with the right suffix, unique in the split ignoring case, and add it to ``taken``."""
    suffix = good_suffix(inspection, example.path.suffix)
    stem = plain_name(Path(example.name).stem)
    name, count = stem + suffix, 1
    while name.casefold() in taken:
        count += 1
        name = f"{stem}_{count}{suffix}"
    taken.add(name.casefold())
    return name


def _copy(source: Path, target: Path, inspection: Inspection) -> None:
    """Copy a picture; save it upright if it has an EXIF orientation, and as PNG if its format is not supported."""
    if inspection.form not in SUFFIXES:
        write_picture(target, read_picture(source))
    elif inspection.orientation == 1:
        target.write_bytes(read_bytes(source))
    else:
        _save_upright(source, target, inspection.orientation)


def _save_upright(source: Path, target: Path, orientation: int) -> None:
    """Save a picture upright; a JPEG keeps its quantisation tables and subsampling, a lossless WebP stays lossless."""
    own: dict[str, Any] = {}
    content = read_bytes(source)
    with Image.open(BytesIO(content)) as picture:
        form = "JPEG" if picture.format == "MPO" else picture.format
        if isinstance(picture, JpegImagePlugin.JpegImageFile):
            own = {"qtables": picture.quantization, "subsampling": JpegImagePlugin.get_sampling(picture)}
        elif form == "WEBP":  # its quality is unknown; Pillow's default would halve its size
            own = {"quality": 95, "lossless": b"VP8L" in content}
        turned = upright(picture, orientation)
        for said in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):  # any may have the orientation
            turned.info.pop(said, None)
        turned.save(target, form, **own)
