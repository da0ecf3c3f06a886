"""What must hold of the annotation readers whatever bytes an annotation file has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from dirty import FORMS, coco, save, scene, voc, yolo

from nanogfl.data.readers import read_table
from nanogfl.doctor.check import check
from nanogfl.errors import DataError

# Kind of file -> the clean set it belongs to, and its place there.
PLACES = {
    "coco": (coco, "annotations/instances_train.json"),
    "voc": (voc, "Annotations/a.xml"),
    "list": (voc, "ImageSets/Main/train.txt"),
    "labels": (yolo, "train/labels/a.txt"),
    "yaml": (yolo, "data.yaml"),
}
assert {make for make, _ in PLACES.values()} == set(FORMS.values())


def prepare(kind: str, root: Path) -> Path:
    """A clean set with a picture outside that no annotation may reach; gives the file that is to be spoilt."""
    make, place = PLACES[kind]
    shutil.rmtree(root, ignore_errors=True)
    make(root)
    save(root.parent / "outside.jpg", scene("outside"))
    return root / place


def holds(file: Path, data: bytes, root: Path, doctor: bool = True) -> None:
    """Read the set with these bytes in that file: a sound table, or one line; the doctor gives valid JSON."""
    file.write_bytes(data)
    try:
        table = read_table(root)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert len({e.name for e in table.examples}) == len(table)
        for example in table.examples:
            assert example.path.is_relative_to(root)
            assert ".." not in example.path.parts
            frame = [example.width, example.height] * 2
            assert np.isfinite(example.boxes).all()
            assert (example.boxes >= 0).all() and (example.boxes <= frame).all()
            assert (example.boxes[:, 2:] > example.boxes[:, :2]).all()
            assert ((example.labels >= 0) & (example.labels < len(table.names))).all()
            assert len(example.crowd) == len(example.areas) == len(example.labels) == len(example.boxes)
            assert (example.areas > 0).all()
    if not doctor:
        return
    try:
        json.dumps(check(root).to_json(), allow_nan=False)
    except DataError as error:
        assert "\n" not in str(error)
