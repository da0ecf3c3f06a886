"""A complete run in a few minutes without any data: draw, train, export, evaluate, predict."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from nanogfl.atomic import write_json
from nanogfl.data import synthetic
from nanogfl.data.readers import read_table
from nanogfl.data.splits import select
from nanogfl.data.table import Table
from nanogfl.deploy.run import export
from nanogfl.errors import UsageError
from nanogfl.evaluation.run import evaluate
from nanogfl.pictures import Picture, read_picture, write_picture
from nanogfl.predictor import load
from nanogfl.runtime.draw import draw_detections, draw_sheet
from nanogfl.training.run import train

SHOWN = 12
MARK = "quickstart.txt"
MARKED = "Made by nanogfl quickstart; the next one into this folder replaces data, run and the files beside them.\n"


def run(out: Path, seed: int, say: Callable[[str], None]) -> None:
    """Create a folder with checkpoint, ONNX file, metrics.json and a picture of detections.

    Args:
        out: the folder; an earlier quickstart in it is replaced.
        seed: seed of the drawn pictures and of the training.
        say: called with each line of progress.

    Raises:
        UsageError: the folder contains something that is not from a quickstart.
    """
    began = time.monotonic()
    claim(out)
    data, run_folder, onnx = out / "data", out / "run", out / "model.onnx"
    shutil.rmtree(data, ignore_errors=True)
    say(f"1/5 drawing pictures with exact boxes of {', '.join(synthetic.NAMES)}: {data}")
    synthetic.draw_set(data, train=1000, val=40, test=100, seed=seed)
    say("2/5 training on them for two to three minutes")
    summary = train(data, out=run_folder, recipe="quickstart", overwrite=True, seed=seed)
    say(f"    {summary['steps']} steps in {summary['seconds']:.0f} s, {summary['images_per_second']:.0f} pictures/s")
    say(f"3/5 exporting one file that takes a frame and returns boxes: {onnx}")
    made = export(run_folder / "best.ckpt", out=onnx, data=data)
    say(f"    {made.megabytes:.1f} MB; equal to the checkpoint: {made.parity.to_text()}")
    say("4/5 evaluating the exported file on pictures it has not seen")
    table = select(read_table(data), "test")
    scores = evaluate(onnx, table, split="all")
    write_json(out / "metrics.json", scores.to_json())
    say(scores.to_table())
    sheet = out / "found.png"
    write_picture(sheet, draw_found(onnx, table))
    say(f"5/5 predicting with it: {sheet}")
    say(f"\ndone in {time.monotonic() - began:.0f} s: {out}/ has found.png, model.onnx, metrics.json, run/best.ckpt")
    say("next, with your own pictures (COCO, Pascal VOC or YOLO):")
    say("  nanogfl train PICTURES --out runs/mine --init nanodet-plus-m_320")


def claim(out: Path) -> None:
    """Create and mark the folder before anything else is written; only a folder with the mark is ever overwritten."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is not a folder; choose another")
    there = sorted(p.name for p in out.iterdir()) if out.exists() else []
    if there and not (MARK in there and (out / MARK).read_bytes() == MARKED.encode()):
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        raise UsageError(
            f"--out {out} contains {', '.join(there[:3])}{more}, not created by quickstart; choose another folder"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).write_bytes(MARKED.encode())
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; choose a writable folder") from error


def draw_found(model: Path, table: Table) -> Picture:
    """Return a sheet of test pictures with the boxes that the model finds."""
    predictor = load(model)
    pictures = []
    for example in table.examples[:SHOWN]:
        picture = read_picture(example.path)
        pictures.append(draw_detections(picture, predictor.predict(picture, 0.4)))
    return draw_sheet(pictures, columns=4, cell=320)
