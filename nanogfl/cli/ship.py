"""Verbs of the exported file: export, verify, info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nanogfl.cli.app import Config, Input, Model, app, say


@app.command(epilog="Example: nanogfl export nanodet-plus-m_416_checkpoint.ckpt --out model.onnx")
def export(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint (ours or NanoDet's), or a published name.")],
    out: Annotated[Path, typer.Option("--out", help="The .onnx file to write.")],
    input: Input = None,  # noqa: A002
    form: Annotated[str, typer.Option("--form", help="frame (camera frame in, boxes out) | tensor | core.")] = "frame",
    sigma: Annotated[bool, typer.Option("--sigma", help="Also give the deviation of each side in px.")] = False,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Thresholds as constants, for runtimes without optional inputs.")
    ] = False,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set.")] = 18,
    data: Annotated[str | None, typer.Option("--data", help="Prove the file on this set's pictures.")] = None,
    config: Config = None,
) -> None:
    """Make one ONNX file that takes a frame and returns boxes, kept only if it equals the checkpoint."""
    from nanogfl.deploy.build import Form
    from nanogfl.deploy.run import export as run
    from nanogfl.deploy.run import nodes_text

    asked = Form(form, opset=opset, fixed=fixed, sigma=sigma)
    made = run(checkpoint, out=out, input=input, config=config, data=data, form=asked)
    say(f"{made.path}: {made.megabytes:.2f} MB, {sum(made.nodes.values())} nodes ({nodes_text(made.nodes)})")
    say(f"equal to the checkpoint: {made.parity.to_text()}")


@app.command(epilog="Example: nanogfl verify best.ckpt model.onnx --data pictures/")
def verify(
    a: Model,
    b: Annotated[str, typer.Argument(help="The other model.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Compare on this set's pictures; drawn ones by default.")
    ] = None,
) -> None:
    """Check that two models find the same boxes."""
    from nanogfl.deploy.run import verify as run

    say(f"equal: {run(a, b, data).to_text()}")


@app.command(epilog="Example: nanogfl info model.onnx")
def info(
    file: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: Config = None,
) -> None:
    """Say what a checkpoint or an exported file is."""
    from nanogfl.predictor import load

    card = load(file, config=config).describe()
    if as_json:
        say(json.dumps(card, indent=1))
        return
    for key, value in card.items():
        listed = ", ".join(map(str, value)) if isinstance(value, list) else value
        text = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(listed)
        say(f"{key:12} {text if len(text) < 400 else text[:400] + ' ...'}")
