"""Small annotated sets drawn on the spot, clean, for tests to spoil in one way each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 64
TRAIN, VAL = ("a", "b", "c"), ("d", "e")
BOXES = {"cat": (10, 8, 50, 40), "dog": (30, 20, 80, 60)}


def scene(seed: str, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture of coloured clouds, unlike that of any other seed: uint8 RGB."""
    rng = np.random.default_rng(list(seed.encode()))
    small = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def save(path: Path, picture: np.ndarray, orientation: int = 1, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.fromarray(picture).save(path, exif=exif, **options)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def yolo_line(label: int, box: Iterable[float], width: int = WIDTH, height: int = HEIGHT) -> str:
    x1, y1, x2, y2 = box
    return f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}\n"


def yolo(root: Path) -> Path:
    """Folders train and valid with a data.yaml; line 1 of each label file is a cat, line 2 a dog."""
    for split, stems in (("train", TRAIN), ("valid", VAL)):
        for stem in stems:
            save(root / split / "images" / f"{stem}.jpg", scene(stem))
            lines = [yolo_line(i, box) for i, box in enumerate(BOXES.values())]
            write(root / split / "labels" / f"{stem}.txt", "".join(lines))
    write(root / "data.yaml", "names: [cat, dog]\ntrain: train/images\nval: valid/images\n")
    return root


def xml(file: str, boxes: Iterable[tuple[str, Iterable[float]]], size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    objects = ""
    for name, box in boxes:
        corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, box, strict=True))
        objects += f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"
    size_tag = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{file}</filename>{size_tag}{objects}</annotation>"


def voc(root: Path) -> Path:
    """The folders of Pascal VOC, with lists of splits."""
    for stem in TRAIN + VAL:
        save(root / "JPEGImages" / f"{stem}.jpg", scene(stem))
        write(root / "Annotations" / f"{stem}.xml", xml(f"{stem}.jpg", BOXES.items()))
    write(root / "ImageSets/Main/train.txt", "\n".join(TRAIN))
    write(root / "ImageSets/Main/val.txt", "\n".join(VAL))
    return root


def coco_document(stems: Iterable[str]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, stem in enumerate(stems, 1):
        images.append({"id": number, "file_name": f"{stem}.jpg", "width": WIDTH, "height": HEIGHT})
        for category, (x1, y1, x2, y2) in enumerate(BOXES.values(), 1):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "image_id": number, "category_id": category, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **box})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco(root: Path) -> Path:
    """Folders train and val of pictures, and a json of each in annotations."""
    for split, stems in (("train", TRAIN), ("val", VAL)):
        for stem in stems:
            save(root / split / f"{stem}.jpg", scene(stem))
        write(root / "annotations" / f"instances_{split}.json", json.dumps(coco_document(stems)))
    return root


FORMS = {"yolo": yolo, "voc": voc, "coco": coco}
