"""What the splits and the form of a set mean for a whole run: which pictures teach, measure, or never count."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from runs import Drawn, block_picture, checkpoint, differences, quick, read_rows, write_coco

from nanogfl.data.readers import read_table
from nanogfl.data.splits import for_training, select
from nanogfl.errors import counted
from nanogfl.pictures import write_picture

NAMES = ("blue", "green", "red")  # sorted, as VOC's readers sort them


@pytest.fixture(scope="module")
def pictures() -> list[Drawn]:
    rng = np.random.default_rng(4)
    return [block_picture(rng, size=64) for _ in range(20)]


def notes(caplog: pytest.LogCaptureFixture) -> None:
    """Hear nanogfl's notes, also after a command that ran in this process switched their propagation off."""
    logging.getLogger("nanogfl").propagate = True
    caplog.set_level(logging.INFO, logger="nanogfl")


def same_weights(a: Path, b: Path) -> list[str]:
    kept = ("state_dict", "current_model_state", "optimizer_states")
    one, two = (checkpoint(run / "last.ckpt") for run in (a, b))
    return differences({k: one[k] for k in kept}, {k: two[k] for k in kept})


# --- splits


def test_test_pictures_change_nothing(pictures: list[Drawn], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes(caplog)
    parts = {"train": pictures[:8], "val": pictures[8:12]}
    quick(write_coco(tmp_path / "without", parts, NAMES), tmp_path / "a")
    quick(write_coco(tmp_path / "with", {**parts, "test": pictures[12:]}, NAMES), tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "b") == []
    assert caplog.text.count("8 training and 4 validation pictures") == 2
    validation = [checkpoint(tmp_path / run / "best.ckpt")["nanogfl"]["validation"] for run in "ab"]
    assert validation[0] == validation[1]


def test_without_val_some_of_train_measure_and_test_stays_out(
    pictures: list[Drawn], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes(caplog)
    data = write_coco(tmp_path / "set", {"train": pictures[:12], "test": pictures[12:]}, NAMES)
    quick(data, tmp_path / "run")
    training, validation = for_training(read_table(data))
    taught, measured = ({e.name for e in t.examples} for t in (training, validation))
    assert not taught & measured
    assert taught | measured == {e.name for e in select(read_table(data), "train").examples}
    assert "has no val split" in caplog.text
    assert f"{len(taught)} training and {counted(len(measured), 'validation picture')}" in caplog.text
    assert checkpoint(tmp_path / "run" / "best.ckpt")["nanogfl"]["validation"]["images"] == len(measured)
    one = write_coco(tmp_path / "one", {"train": pictures[:1]}, NAMES)
    assert not len(for_training(read_table(one))[1])
    assert "has no val split: its only train picture is not used for validation" in caplog.text


def test_a_set_without_splits_is_cut_alike_whatever_its_order_and_seed(
    pictures: list[Drawn], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes(caplog)
    data = write_coco(tmp_path / "set", {"": pictures}, NAMES)
    chosen = [{e.name for e in part.examples} for part in for_training(read_table(data))]
    path = data / "annotations" / "everything.json"
    content = json.loads(path.read_text())
    for seed, order in enumerate((content["images"], content["images"][::-1])):
        path.write_text(json.dumps(content | {"images": order}))
        assert [{e.name for e in part.examples} for part in for_training(read_table(data))] == chosen
        quick(data, tmp_path / f"run{seed}", seed=seed)
    sizes = f"{len(chosen[0])} training and {len(chosen[1])} validation pictures"
    assert caplog.text.count(sizes) == 2
    tested = {e.name for e in select(read_table(data), "test").examples}
    assert tested and not tested & (chosen[0] | chosen[1])


# --- forms


def write_yolo(root: Path, splits: Mapping[str, Sequence[Drawn]]) -> Path:
    """images/SPLIT/001.png, labels/SPLIT/001.txt, data.yaml."""
    for split, drawn in splits.items():
        for number, one in enumerate(drawn, 1):
            write_picture(root / "images" / split / f"{number:03d}.png", one.picture)
            height, width = one.picture.shape[:2]
            lines = []
            for (x1, y1, x2, y2), label in zip(one.boxes, one.labels, strict=True):
                box = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
                lines.append(" ".join(map(repr, [label, *box])))
            path = root / "labels" / split / f"{number:03d}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines))
    paths = "\n".join(f"{split}: images/{split}" for split in splits)
    (root / "data.yaml").write_text(f"path: .\n{paths}\nnames: [{', '.join(NAMES)}]\n")
    return root


def write_voc(root: Path, splits: Mapping[str, Sequence[Drawn]]) -> Path:
    """JPEGImages, Annotations, ImageSets/Main/SPLIT.txt; the names of the files keep the order of the splits."""
    for split, drawn in splits.items():
        stems = [f"{split}_{number:03d}" for number in range(1, len(drawn) + 1)]
        for stem, one in zip(stems, drawn, strict=True):
            write_picture(root / "JPEGImages" / f"{stem}.png", one.picture)
            height, width = one.picture.shape[:2]
            objects = "".join(
                f"<object><name>{NAMES[label]}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
                f"<ymax>{y2}</ymax></bndbox></object>"
                for (x1, y1, x2, y2), label in zip(one.boxes, one.labels, strict=True)
            )
            path = root / "Annotations" / f"{stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            path.write_text(f"<annotation><filename>{stem}.png</filename>{size}{objects}</annotation>")
        listed = root / "ImageSets" / "Main" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("\n".join(stems))
    return root


def test_the_three_forms_of_one_set_train_alike(pictures: list[Drawn], tmp_path: Path) -> None:
    parts = {"train": pictures[:8], "val": pictures[8:12]}
    forms = {
        "coco": write_coco(tmp_path / "coco", parts, NAMES),
        "yolo": write_yolo(tmp_path / "yolo", parts),
        "voc": write_voc(tmp_path / "voc", parts),
    }
    losses = {}
    for form, data in forms.items():
        table = read_table(data)
        assert (table.form, table.names, len(table)) == (form, NAMES, 12)
        quick(data, tmp_path / f"{form}_run", epochs=2, batch=4)
        losses[form] = [
            float(row[part]) for row in read_rows(tmp_path / f"{form}_run") for part in ("qfl", "giou", "dfl")
        ]
    assert losses["yolo"] == pytest.approx(losses["coco"], rel=1e-3)
    assert losses["voc"] == pytest.approx(losses["coco"], rel=1e-3)
