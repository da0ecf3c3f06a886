"""What must hold of annotation readers, recipes and models, whatever bytes their files or their metadata have."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import onnx
from dirty import FORMS, coco, save, scene, voc, yolo
from models import write_checkpoint

import nanogfl
from nanogfl.data.readers import read_table
from nanogfl.deploy.build import Form, build
from nanogfl.doctor.check import check
from nanogfl.errors import DataError, NanogflError
from nanogfl.predictor import TorchDetector
from nanogfl.recipe import from_dict, load_recipe, to_dict
from nanogfl.training.schedule import learning_rate, plan

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


def annotations_hold(file: Path, data: bytes, root: Path, doctor: bool = True) -> None:
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


def one_line(error: NanogflError) -> None:
    assert "\n" not in str(error) and len(str(error)) < 1100


def recipe_holds(file: Path, data: bytes) -> None:
    """Read this recipe: one that can be written and read again and has a schedule, or one line."""
    file.write_bytes(data)
    try:
        recipe = load_recipe(str(file))
    except NanogflError as error:
        one_line(error)
        return
    assert from_dict(json.loads(json.dumps(to_dict(recipe), allow_nan=False)), "written") == recipe
    made = plan(recipe.train, 200)
    assert made.epochs >= 1 and made.steps_per_epoch >= 1 and 0 <= made.average < 1
    assert made.validate_every >= 1
    rates = [learning_rate(step, made, recipe.train) for step in (0, made.warmup, made.steps // 2, made.steps)]
    assert all(math.isfinite(rate) and rate >= 0 for rate in rates)


class Model:
    """A small exported file whose metadata can be replaced."""

    def __init__(self, folder: Path) -> None:
        detector = nanogfl.load(write_checkpoint(folder / "best.ckpt", input_size=(64, 64)))
        assert isinstance(detector, TorchDetector)
        self.path, self.proto = folder / "model.onnx", build(detector, Form(sigma=True))
        self.card = {entry.key: entry.value for entry in self.proto.metadata_props}

    def write(self, card: dict[str, str]) -> Path:
        """The file with these metadata."""
        del self.proto.metadata_props[:]
        for key, value in card.items():
            self.proto.metadata_props.add(key=key, value=value)
        onnx.save(self.proto, self.path)
        return self.path


def metadata_holds(model: Model, data: bytes) -> None:
    """Open the model with these metadata (JSON) and look at a picture: sound boxes, or one line."""
    try:
        detector = nanogfl.load(model.write(json.loads(data)))
        found = detector.predict(np.full((50, 60, 3), 90, np.uint8), 0.01)
    except NanogflError as error:
        one_line(error)
        return
    json.dumps(detector.describe(), allow_nan=False)
    assert all(0 <= label < len(found.names) for label in found.labels)
    assert np.isfinite(found.boxes).all() and ((found.scores >= 0) & (found.scores <= 1)).all()
