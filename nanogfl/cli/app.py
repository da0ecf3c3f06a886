"""The Typer application, and the options that several commands share."""

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
    epilog="Start with: nanogfl quickstart. With --debug, anywhere in a command, errors show a traceback.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Model = Annotated[str, typer.Argument(help="Checkpoint (ours or NanoDet's), exported ONNX, or a published name.")]
Data = Annotated[str, typer.Argument(help="COCO, Pascal VOC or YOLO dataset: folder, json or data.yaml.")]
Input = Annotated[str | None, typer.Option("--input", help="Input size: 320 or HEIGHTxWIDTH, multiples of 32.")]
Config = Annotated[Path | None, typer.Option("--config", help="NanoDet's .yml, for its input size and class names.")]
Split = Annotated[
    str | None, typer.Option("--split", help="train | val | test | all (default: test, else val, else all).")
]
Classes = Annotated[str | None, typer.Option("--classes", help="Only these classes, separated by commas.")]
Score = Annotated[float, typer.Option("--score", help="Only boxes above this score, 0 to 1.", min=0, max=1)]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]


def _version(asked: bool) -> None:
    if asked:
        from nanogfl import __version__

        say(f"nanogfl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Handle the options that need no command."""
    del version


# Lines of the help page, short enough for 80 columns, in the order in which a user needs the commands.
VERBS = {
    "quickstart": "Draw a small dataset, train on it, export, show the boxes.",
    "check": "Find errors in a dataset, and how to fix them.",
    "train": "Train a detector on your pictures.",
    "eval": "Measure average precision; analyse the errors.",
    "predict": "Detect in pictures and videos.",
    "export": "Make one verified ONNX file: frame in, boxes out.",
    "verify": "Check that two models find the same boxes.",
    "info": "Describe a checkpoint or an exported file.",
    "bench": "Measure AP, latency, size and memory in each runtime.",
    "webcam": "Detect live: a camera, a stream, or a video.",
    "web": "Serve the browser demo with a model.",
    "mine": "List the unlabelled pictures to label next.",
}


def put_in_order() -> None:
    """Set the line and the position of each command on the help page."""
    places = {command.name or getattr(command.callback, "__name__", ""): command for command in app.registered_commands}
    for name, line in VERBS.items():
        places[name].short_help = line
    app.registered_commands[:] = [places[name] for name in VERBS]


@contextmanager
def bar(pictures: int) -> Iterator[Callable[..., None]]:
    """Yield a function that advances a progress bar by a count, or by 1; it is a no-op if stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda _=1: None
        return
    with typer.progressbar(length=pictures, label="processing pictures", file=sys.stderr) as shown:
        yield lambda count=1: shown.update(count)


def listed(text: str) -> list[str]:
    """Split ``a, b`` into a list of words."""
    return [word.strip() for word in text.split(",") if word.strip()]


def named(option: str, text: str | None, one: str) -> list[str] | None:
    """Return the names in an option, or None if it is not given; ``one`` is the error message's word for a name."""
    names = None if text is None else listed(text)
    if names == []:
        raise UsageError(f"{option} {text!r} contains no {one}; specify some, separated by commas, or omit it")
    return names


def say(text: str) -> None:
    """Print a result."""
    try:
        typer.echo(text)
    except OSError as error:
        if error.errno == errno.EINVAL:  # on Windows: the reader has left
            raise BrokenPipeError from error
        raise


def mention(text: str) -> None:
    """Print a result that a file holds too; ignore a closed pipe (``| head``), so that the file is completed."""
    with suppress(BrokenPipeError):
        say(text)
