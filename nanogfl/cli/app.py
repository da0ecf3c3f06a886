"""The Typer application, and the options that mean the same in every verb."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from nanogfl.errors import UsageError

app = typer.Typer(
    name="nanogfl",
    help="Small object detectors for phones: from your pictures to one ONNX file that takes a frame and returns boxes.",
    epilog="Start with: nanogfl quickstart. With --debug, anywhere, errors show where they arose.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Model = Annotated[str, typer.Argument(help="Checkpoint (ours or NanoDet's), exported ONNX, or a published name.")]
Data = Annotated[str, typer.Argument(help="COCO, Pascal VOC or YOLO set: a folder, a json, or a data.yaml.")]
Input = Annotated[str | None, typer.Option("--input", help="Input size: 320 or HEIGHTxWIDTH, multiples of 32.")]
Config = Annotated[Path | None, typer.Option("--config", help="NanoDet's .yml, for its input size and class names.")]
Split = Annotated[
    str | None, typer.Option("--split", help="train | val | test | all; else test, else val, else all pictures.")
]
Classes = Annotated[str | None, typer.Option("--classes", help="Only these, separated by commas.")]
Score = Annotated[float, typer.Option("--score", help="Boxes above this score, 0 to 1.", min=0, max=1)]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]


def _version(asked: bool) -> None:
    if asked:
        from nanogfl import __version__

        say(f"nanogfl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which nanogfl this is.")
    ] = False,
) -> None:
    """What can be asked without a verb."""
    del version


# The help page's lines, short enough for 80 columns, in the order in which one comes to need the verbs.
VERBS = {
    "quickstart": "Draw a small set, train on it, export, show the boxes.",
    "check": "Say what is wrong with a set, where, and what to do.",
    "train": "Train a detector on your pictures.",
    "eval": "Measure average precision, and what goes wrong.",
    "predict": "Detect in pictures and videos.",
    "export": "Make one ONNX file: a frame in, boxes out, proven.",
    "verify": "Check that two models find the same boxes.",
    "info": "Say what a checkpoint or an exported file is.",
    "bench": "Measure AP, latency, size and memory in every runtime.",
    "webcam": "Detect live: a camera, a stream, or a video.",
    "web": "Serve the browser demo with a model.",
    "mine": "Say which unlabelled pictures to label next.",
}


def put_in_order() -> None:
    """Give each verb its line and its place on the help page."""
    places = {command.name or getattr(command.callback, "__name__", ""): command for command in app.registered_commands}
    for name, line in VERBS.items():
        places[name].short_help = line
    app.registered_commands[:] = [places[name] for name in VERBS]


@contextmanager
def bar(pictures: int) -> Iterator[Callable[..., None]]:
    """A bar on the terminal that each call moves on by so many pictures, or one; nothing where stderr is a file."""
    if not sys.stderr.isatty():
        yield lambda _=1: None
        return
    with typer.progressbar(length=pictures, label="looking at pictures", file=sys.stderr) as shown:
        yield lambda count=1: shown.update(count)


def listed(text: str) -> list[str]:
    """``a, b`` as a list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def named(option: str, text: str | None, one: str) -> list[str] | None:
    """What an option lists, ``one`` of which is called so; None where it was not given."""
    names = None if text is None else listed(text)
    if names == []:
        raise UsageError(f"{option} {text!r} names no {one}; give some, separated by commas, or leave it out")
    return names


def say(text: str) -> None:
    """Print a result."""
    try:
        typer.echo(text)
    except OSError as error:
        if error.errno == errno.EINVAL:  # so Windows says that the reader has left
            raise BrokenPipeError from error
        raise


def mention(text: str) -> None:
    """Print what is also in a file, which is made to its end even where the reader leaves (``| head``)."""
    with suppress(BrokenPipeError):
        say(text)
