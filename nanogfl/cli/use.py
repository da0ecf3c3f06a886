"""Verbs that look at pictures: predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nanogfl.cli.app import Config, Input, Json, Model, Score, app, say


@app.command(epilog="Example: nanogfl predict model.onnx pictures/*.jpg --draw drawn/ --json found.json")
def predict(
    model: Model,
    source: Annotated[list[str], typer.Argument(help="Pictures, folders, globs, videos.")],
    score: Score = 0.3,
    classes: Annotated[str | None, typer.Option("--classes", help="Only these, separated by commas.")] = None,
    json_file: Json = None,
    sigma: Annotated[bool, typer.Option("--sigma", help="Records hold the deviation of each side in px, too.")] = False,
    draw: Annotated[Path | None, typer.Option("--draw", help="Folder for pictures with the boxes drawn.")] = None,
    input: Input = None,  # noqa: A002
    config: Config = None,
) -> None:
    """Detect in pictures and videos."""
    from nanogfl.predictor import load
    from nanogfl.runtime.predict import Found, predict_sources
    from nanogfl.wholefile import write_json

    quiet = json_file is None and draw is None

    def progress(found: Found) -> None:
        names = [d["class"] for d in found.record["detections"]]
        counts = ", ".join(f"{names.count(n)} {n}" for n in dict.fromkeys(names)) or "nothing"
        at = "" if found.frame.index is None else f" frame {found.frame.index}"
        if found.frame.index is None or quiet:
            say(f"{found.record['file']}{at}: {counts}")

    chosen = [c.strip() for c in classes.split(",") if c.strip()] if classes else None
    records = predict_sources(
        load(model, input=input, config=config), source,
        score=score, classes=chosen, sigma=sigma, draw=draw, progress=progress,
    )  # fmt: skip
    if json_file:
        write_json(json_file, records)
    total = sum(len(r["detections"]) for r in records)
    say(f"{total} boxes in {len(records)} frames" + "".join(f" -> {p}" for p in (draw, json_file) if p))
