"""The command line: options in, calls to the package, one line for every error."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nanogfl.errors import NanogflError

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
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]


@app.command(epilog="Example: nanogfl quickstart --out quickstart")
def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path("quickstart"),
    seed: Annotated[int, typer.Option("--seed", help="Of the drawn pictures and the training.")] = 0,
) -> None:
    """Draw a small set, train on it for about two minutes, export, and show the boxes found."""
    from nanogfl.quickstart import run

    run(out, seed, say)


@app.command(epilog="Example: nanogfl train pictures/ --out runs/cells --init nanodet-plus-m_416 --epochs 100")
def train(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, log and summary.")],
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Recipe: a name that ships with nanogfl, or a YAML file.")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="s | m | l; m is NanoDet-Plus-m, l its 1.5x.")] = None,
    input: Input = None,  # noqa: A002
    init: Annotated[
        str | None, typer.Option("--init", help="Start from a checkpoint, a published name, imagenet, or none.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Passes over the pictures; follows from their number.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Pictures a step.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of everything random.")] = None,
    freeze: Annotated[
        str | None, typer.Option("--freeze", help="backbone: keep it as loaded, for very small sets.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where a run lies in --out.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key.path=value; may be repeated.")] = None,
) -> None:
    """Train a detector on your pictures."""
    from nanogfl.training.folder import is_main
    from nanogfl.training.run import train as run

    summary = run(
        data, out=out, recipe=recipe, resume=resume, overwrite=overwrite, set=set_ or (), size=size, input=input,
        init=init, epochs=epochs, batch=batch, seed=seed, freeze=freeze,
    )  # fmt: skip
    if not is_main():
        return
    best = summary["best"]
    say(f"epochs {summary['epochs']}, {summary['seconds']:.0f} s, {summary['images_per_second']:.1f} pictures/s")
    say(
        f"best validation AP {best['AP']:.3f}, AP50 {best['AP50']:.3f} (epoch {best['epoch'] + 1}): {out / 'best.ckpt'}"
    )
    say(f"next: nanogfl export {out / 'best.ckpt'} --out {out / 'model.onnx'}")


@app.command("eval", epilog="Example: nanogfl eval runs/cells/best.ckpt pictures/ --split test --json scores.json")
def evaluate(
    model: Model,
    data: Data,
    split: Annotated[
        str | None, typer.Option("--split", help="train | val | test | all; test where there is one.")
    ] = None,
    input: Input = None,  # noqa: A002
    config: Config = None,
    score: Annotated[float, typer.Option("--score", help="Candidates above this score.")] = 0.05,
    json_file: Json = None,
) -> None:
    """Measure average precision (pycocotools' twelve numbers, and AP a class)."""
    from nanogfl.evaluation.run import evaluate as run

    scores = run(model, data, split=split, input=input, config=config, score_threshold=score, json_file=json_file)
    say(scores.to_table())


@app.command(epilog="Example: nanogfl predict model.onnx pictures/*.jpg --draw drawn/ --json found.json")
def predict(
    model: Model,
    source: Annotated[list[str], typer.Argument(help="Pictures, folders, globs, videos.")],
    score: Annotated[float, typer.Option("--score", help="Lowest score that is shown.")] = 0.3,
    classes: Annotated[str | None, typer.Option("--classes", help="Only these, separated by commas.")] = None,
    json_file: Json = None,
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
        load(model, input=input, config=config), source, score=score, classes=chosen, draw=draw, progress=progress
    )
    if json_file:
        write_json(json_file, records)
    total = sum(len(r["detections"]) for r in records)
    say(f"{total} boxes in {len(records)} frames" + "".join(f" -> {p}" for p in (draw, json_file) if p))


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


def say(text: str) -> None:
    """Print a result."""
    typer.echo(text)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return f"warning: {text}" if record.levelno >= logging.WARNING else text


def _quiet(debug: bool) -> None:
    """Our own notes to stderr; other libraries only speak under --debug."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    own = logging.getLogger("nanogfl")
    own.addHandler(handler)
    own.setLevel(logging.DEBUG if debug else logging.INFO)
    own.propagate = False
    if not debug:
        warnings.simplefilter("ignore")
        for name in (
            "pytorch_lightning",
            "lightning",
            "lightning.pytorch",
            "lightning_fabric",
            "torch.distributed",
        ):
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code: 0 done, 1 the work or the data failed, 2 usage."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    _quiet(debug)
    try:
        code = _run([a for a in given if a != "--debug"])
    except Exception as error:
        if debug:
            raise
        code, message = _explain(error)
        if message:
            sys.stderr.write(f"error: {message}\n")
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted; nothing half-written was left\n")
        code = 1
    sys.stdout.flush()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    result: Any = typer.main.get_command(app).main(arguments, prog_name="nanogfl", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _explain(error: Exception) -> tuple[int, str]:
    """Exit code and the one line for an error."""
    if isinstance(error, NanogflError):
        return error.exit_code, str(error)
    if isinstance(error, typer.Abort):
        return 1, "interrupted; nothing half-written was left"
    usage = getattr(error, "format_message", None)
    if usage is not None:  # typer's usage errors, whose class moves between its versions
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "nanogfl"
        return 2, " ".join(f"{usage()} See: {where} --help".split())
    if isinstance(error, ModuleNotFoundError):
        return 1, f"{error.name} is not installed, and this command needs it: pip install 'nanogfl[train]'"
    if isinstance(error, BrokenPipeError):
        return 1, ""
    if isinstance(error, OSError):
        return 1, f"{error.filename or 'a file'}: {error.strerror or error}; check the path and the free space"
    text = " ".join(str(error).split())[:300]
    return 1, f"unexpected {type(error).__name__}: {text}; run it again with --debug and report what it shows"
