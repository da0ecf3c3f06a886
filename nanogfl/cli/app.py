"""The Typer application, and the options that mean the same in every verb."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="nanogfl",
    help="Small object detectors for phones: from your pictures to one ONNX file that takes a frame and returns boxes.",
    epilog="Start with: nanogfl quickstart",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Model = Annotated[str, typer.Argument(help="Checkpoint (ours or NanoDet's), exported ONNX, or a published name.")]
Data = Annotated[str, typer.Argument(help="COCO, Pascal VOC or YOLO set: a folder, a json, or a data.yaml.")]
Input = Annotated[str | None, typer.Option("--input", help="Input size: 320 or HEIGHTxWIDTH, multiples of 32.")]
Config = Annotated[Path | None, typer.Option("--config", help="NanoDet's .yml, for its input size and class names.")]
Score = Annotated[float, typer.Option("--score", help="Boxes above this score, 0 to 1.", min=0, max=1)]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]


def say(text: str) -> None:
    """Print a result."""
    typer.echo(text)
