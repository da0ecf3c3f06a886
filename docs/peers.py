"""Comparison of nanogfl exports with other deployments of NanoDet-Plus: AP, and the network's time on one thread.

Accepts ONNX files as NanoDet's exporter writes them (input ``data``, output [1, P, C + 32], class part after the
sigmoid) and ncnn files as its demo reads them (blobs ``data``, ``cls..8`` to ``cls..64`` and ``dis..8`` to
``dis..64``). All get the same pictures, resized by the first file's rule. Times are measured in turns, without resizing
and decoding, except for the sigmoid and the concatenation of levels in the files of others (about 0.4 of 22 ms).

    python docs/peers.py COCO_VAL OURS.onnx [OURS_INT8.onnx ...] [THEIRS.onnx ...] [THEIRS.param ...]
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nanogfl
from nanogfl.data.readers import read_table
from nanogfl.deploy.cut import cut_core
from nanogfl.deploy.runtimes.detector import RuntimeDetector, network_image
from nanogfl.evaluation.run import evaluate
from nanogfl.runtime.session import OnnxDetector, open_session
from nanogfl.view import View, normalise

ROUNDS, LEAST = 100, 1e-6


@dataclass
class Deployment:
    """A network from any of the supported files.

    Attributes:
        name: name in the table.
        mb: size of its files in MB.
        prepare: image float32 [1, 3, H, W], BGR 0 to 255 -> input of the network.
        run: input of the network -> its output; only this is timed.
        outputs: output of the network -> maps by the names of nanogfl's core form, classes as logits.
    """

    name: str
    mb: float
    prepare: Callable[[Any], Any]
    run: Callable[[Any], Any]
    outputs: Callable[[Any], dict[str, Any]]

    def network(self, image: Any) -> dict[str, Any]:
        """Run the network on an image; return its maps by name, or the joined output as ``raw``."""
        return self.outputs(self.run(self.prepare(image)))


def deployment(path: Path) -> Deployment:
    """Load a file of nanogfl, of NanoDet's exporter, or of ncnn."""
    if path.suffix == ".param":
        return _ncnn(path)
    session = open_session(path.read_bytes(), 1)
    if session.get_inputs()[0].name == "data":
        return _nanodet(path, session)
    ours = nanogfl.load(path)
    assert isinstance(ours, OnnxDetector)
    core = open_session(cut_core(path, ours.card).SerializeToString(), 1)
    names = [output.name for output in core.get_outputs()]
    return Deployment(
        path.name,
        path.stat().st_size / 1e6,
        lambda image: {"image": image},
        lambda feed: core.run(None, feed),
        lambda found: dict(zip(names, found, strict=True)),
    )


def _normalised(image: Any) -> Any:
    return normalise(image[0].transpose(1, 2, 0))[None]


def _logits(score: Any) -> Any:
    score = np.clip(score, LEAST, 1 - LEAST)
    return np.log(score / (1 - score))


def _nanodet(path: Path, session: Any) -> Deployment:
    def outputs(found: Any) -> dict[str, Any]:
        raw = found[0][0]
        return {"raw": np.concatenate([_logits(raw[:, :-32]), raw[:, -32:]], axis=1)}

    size = path.stat().st_size / 1e6
    return Deployment(
        path.name, size, lambda i: {"data": _normalised(i)}, lambda feed: session.run(None, feed), outputs
    )


def _ncnn(path: Path) -> Deployment:
    import ncnn  # pyright: ignore[reportMissingImports]  (an extra)

    net = ncnn.Net()
    net.opt.num_threads = 1
    blobs = path.with_suffix(".bin")
    if net.load_param(str(path)) or net.load_model(str(blobs)):
        sys.exit(f"ncnn cannot read {path}")
    named = re.findall(r"\b((cls|dis)\w*?_?(8|16|32|64))\b", path.read_text(encoding="utf-8"))
    names = {f"{'classes' if kind == 'cls' else 'sides'}_{stride}": blob for blob, kind, stride in named}
    order = [f"{kind}_{stride}" for kind in ("classes", "sides") for stride in (8, 16, 32, 64)]

    def run(image: Any) -> list[Any]:
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(image[0]))
        return [np.array(extractor.extract(names[name])[1]) for name in order]

    def outputs(found: list[Any]) -> dict[str, Any]:
        maps = {}
        for name, level in zip(order, found, strict=True):
            if name.startswith("sides"):
                maps[name] = level.reshape(-1, 32).T[None]  # the sides are the last axis
            else:
                maps[name] = _logits(level.T if level.ndim == 2 else level)[None]
        return maps

    size = (path.stat().st_size + blobs.stat().st_size) / 1e6
    return Deployment(path.name, size, _normalised, run, outputs)


def main() -> None:
    """Print a table with one line per file."""
    if len(sys.argv) < 3:
        sys.exit(f"usage: {(__doc__ or '').strip().splitlines()[-1].strip()}")
    data, *files = sys.argv[1:]
    first = nanogfl.load(files[0])
    assert isinstance(first, OnnxDetector), "the first file is one of ours"
    table, compared = read_table(data), [deployment(Path(file)) for file in files]
    picture = table.examples[0].picture()
    image = network_image(picture, View(picture.shape[:2], first.input_size, first.card.resize))
    feeds = [one.prepare(image) for one in compared]
    times = np.empty((ROUNDS, len(compared)))
    for row in times:
        for i, (one, feed) in enumerate(zip(compared, feeds, strict=True)):
            start = time.perf_counter()
            one.run(feed)
            row[i] = 1e3 * (time.perf_counter() - start)
    middle = np.median(times[ROUNDS // 5 :], axis=0)
    print("| file | AP | AP50 | MB | network ms | of the first |\n|---|---|---|---|---|---|")
    for one, ms in zip(compared, middle, strict=True):
        found = evaluate(RuntimeDetector(first.card, one.network), table, split="all").numbers
        print(
            f"| {one.name} | {found['AP']:.4f} | {found['AP50']:.4f} | {one.mb:.2f} | {ms:.2f} | {ms / middle[0]:.3f} |"
        )


if __name__ == "__main__":
    main()
