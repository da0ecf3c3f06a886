"""Small sets and short runs for the tests of training, and what can be asked of the folder that a run leaves."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import nanogfl
from nanogfl.pictures import write_picture
from nanogfl.training.folder import TENSORBOARD

Train = Callable[..., dict[str, Any]]
LEFT = ("best.ckpt", "config.yaml", "last.ckpt", "metrics.csv", "summary.json")
CLOCK = ("seconds", "images_per_second")  # the columns that no two runs share
SMALL = ["--size", "s", "--input", "64", "--batch", "8", "--set", "train.workers=0"]

COLOURS = {"red": (40, 40, 220), "green": (60, 200, 60), "blue": (220, 80, 40)}
PLAIN = (
    "augment.scale=[1, 1]",
    "augment.stretch=[1, 1]",
    "augment.translate=0",
    "augment.brightness=0",
    "augment.contrast=[1, 1]",
    "augment.saturation=[1, 1]",
)
NOISE = ("Checkpoint directory .* exists and is not empty", ".*LeafSpec.* is deprecated")  # Lightning's own


class Drawn(NamedTuple):
    """One picture: uint8 BGR, boxes x1 y1 x2 y2 in px, labels, and which boxes are crowds (none)."""

    picture: np.ndarray
    boxes: Sequence[Sequence[float]]
    labels: Sequence[int]
    crowd: Sequence[bool] = ()


def block_picture(rng: np.random.Generator, size: int = 96, classes: Sequence[int] = (0, 1, 2)) -> Drawn:
    """One coloured block in the upper and one in the lower half of a grey picture."""
    picture = np.full((size, size, 3), 128, np.uint8)
    boxes, labels = [], []
    for top in (0, size // 2):
        width, height = (int(side) for side in rng.integers(size // 4, size * 7 // 16, 2))
        x, y = int(rng.integers(size - width)), top + int(rng.integers(size // 2 - height))
        label = int(rng.choice(classes))
        picture[y : y + height, x : x + width] = list(COLOURS.values())[label]
        boxes.append([x, y, x + width, y + height])
        labels.append(label)
    return Drawn(picture, boxes, labels)


def write_coco(root: Path, splits: Mapping[str, Sequence[Drawn]], names: Sequence[str] = tuple(COLOURS)) -> Path:
    """Write annotations/SPLIT.json and images/SPLIT/000.png; a split called "" makes a set without splits."""
    for split, drawn in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, one in enumerate(drawn, 1):
            height, width = one.picture.shape[:2]
            file_name = f"{split}/{number:03d}.png".lstrip("/")
            write_picture(root / "images" / file_name, one.picture)
            images.append({"id": number, "file_name": file_name, "width": width, "height": height})
            for (x1, y1, x2, y2), label, crowd in zip(
                one.boxes, one.labels, one.crowd or [False] * len(one.labels), strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": int(crowd),
                    }
                )
        categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
        path = root / "annotations" / f"{split or 'everything'}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


def quick(data: Path, out: Path, **options: Any) -> dict[str, Any]:
    """``nanogfl.train`` at size s and 64 px, one epoch of batches of 8, unless told otherwise; on one thread."""
    torch.set_num_threads(1)  # spinning threads take minutes where other work has the cores
    with warnings.catch_warnings():
        for noise in NOISE:
            warnings.filterwarnings("ignore", noise)
        return nanogfl.train(data, out=out, **{"size": "s", "input": 64, "epochs": 1, "batch": 8} | options)


def read_rows(out: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, read as data only."""
    return torch.load(path, map_location="cpu", weights_only=True)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint."""
    return checkpoint(path)["state_dict"]


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Where two trees of plain values and tensors differ in any bit."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        same = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [at]
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [d for key in a.keys() | b.keys() for d in differences(a.get(key), b.get(key), f"{at}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{at}/{i}")]
    return [] if a == b else [at]


def left(run: Path) -> list[str]:
    """The files of a run, without TensorBoard's."""
    return sorted(p.name for p in run.iterdir() if p.name != TENSORBOARD)


def timeless(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the columns that no two runs share."""
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_rows(run)]


def tensors(value: Any, at: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in nested containers, by its path."""
    if isinstance(value, torch.Tensor):
        return {at: value}
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {k: v for key, part in inside for k, v in tensors(part, f"{at}/{key}").items()}


def different(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Paths of the tensors in which two checkpoints differ by so much as a bit."""
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    return [key for key in first if not torch.equal(first[key], second[key])]


def finite(content: dict[str, Any]) -> bool:
    """Whether weights (current and averaged) and optimizer state are numbers; Lightning's own notes may be inf."""
    kept = [content.get(k, {}) for k in ("state_dict", "current_model_state", "optimizer_states")]
    return all(bool(t.isfinite().all()) for t in tensors(kept).values())


def contents(run: Path) -> dict[str, bytes]:
    """The bytes of a run's five files."""
    return {name: (run / name).read_bytes() for name in LEFT}


def run_command(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; ``before`` is Python that runs first."""
    start = [str(Path(sys.executable).with_name("nanogfl"))]
    if before:
        start = [sys.executable, "-c", f"{before}\nimport sys\nfrom nanogfl.cli import main\nmain(sys.argv[1:])"]
    return subprocess.run([*start, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


def main(*arguments: object) -> int:
    """The command in this process; returns its exit code."""
    from nanogfl.cli import main as run

    own = logging.getLogger("nanogfl")
    before = own.handlers[:], own.propagate, own.level
    with pytest.raises(SystemExit) as done:
        run([str(a) for a in arguments])
    own.handlers[:], own.propagate = before[:2]
    own.setLevel(before[2])
    return int(done.value.code or 0)
