"""Commands that run a model on pictures: predict, webcam, web, mine."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanogfl.cli.app import Classes, Config, Input, Json, Model, Score, app, bar, mention, named, say
from nanogfl.errors import UsageError, counted

if TYPE_CHECKING:
    from nanogfl.predictor import Predictor
    from nanogfl.runtime.predict import Predicts
    from nanogfl.runtime.track import Tracker


@app.command(epilog="Example: nanogfl predict model.onnx pictures/*.jpg --draw drawn/ --json found.json")
def predict(
    model: Model,
    source: Annotated[list[str], typer.Argument(help="Pictures, folders, globs, videos.")],
    score: Score = 0.3,
    classes: Classes = None,
    json_file: Json = None,
    sigma: Annotated[
        bool, typer.Option("--sigma", help="Add the standard deviation of each side (px) to the records.")
    ] = False,
    draw: Annotated[Path | None, typer.Option("--draw", help="Folder for pictures with drawn boxes.")] = None,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Split large pictures into overlapping tiles, to find small objects.")
    ] = False,
    tile_scale: Annotated[
        float | None,
        typer.Option(
            "--tile-scale",
            show_default="1",
            help="Picture pixels per network pixel; 2 makes tiles twice as wide and shrinks them by half.",
        ),
    ] = None,
    tile_overlap: Annotated[
        float | None,
        typer.Option(
            "--tile-overlap",
            show_default="0.25",
            help="Fraction of a tile shared with the next; the overlap should be larger than the objects.",
        ),
    ] = None,
    input: Input = None,  # noqa: A002
    config: Config = None,
) -> None:
    """Detect in pictures and videos."""
    from nanogfl.atomic import write_json
    from nanogfl.predictor import load
    from nanogfl.runtime.frames import expand
    from nanogfl.runtime.outputs import check_outputs
    from nanogfl.runtime.predict import Found, predict_sources

    files = [path for path in (draw, json_file) if path]
    tell = mention if files else say

    def progress(found: Found) -> None:
        names = [d["class"] for d in found.record["detections"]]
        counts = ", ".join(f"{names.count(n)} {n}" for n in dict.fromkeys(names)) or "nothing"
        at = "" if found.frame.index is None else f" frame {found.frame.index}"
        if found.frame.index is None or not files:
            tell(f"{found.record['file']}{at}: {counts}")

    chosen, tiled = named("--classes", classes, "class"), _tiled(tiles, tile_scale, tile_overlap)
    detector = tiled(load(model, input=input, config=config))
    chosen = [classes] if classes in detector.names else chosen  # one name that contains a comma
    check_outputs([model, *expand(source)], {"--json": json_file}, {"--draw": draw})
    records = predict_sources(detector, source, score=score, classes=chosen, sigma=sigma, draw=draw, progress=progress)
    if json_file:
        write_json(json_file, records)
    total = sum(len(r["detections"]) for r in records)
    frames = sum("frame" in r for r in records)
    seen = [counted(n, one) for n, one in ((len(records) - frames, "picture"), (frames, "frame")) if n]
    tell(f"{counted(total, 'box')} in {' and '.join(seen)}" + "".join(f" -> {path}" for path in files))


def _tiled(tiles: bool, scale: float | None, overlap: float | None) -> Callable[[Predictor], Predicts]:
    """Return a function that wraps a detector with tiles, if they are requested, or returns it unchanged."""
    from nanogfl.runtime.tiles import Tiled

    given = {"scale": scale, "overlap": overlap}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not tiles:
        raise UsageError(f"--tile-{next(iter(given))} requires --tiles; add it, or omit both")
    return (lambda detector: Tiled(detector, **given)) if tiles else lambda detector: detector


@app.command(epilog="Example: nanogfl webcam model.onnx --source rtsp://192.168.1.20/stream --track --record out.mp4")
def webcam(
    model: Model,
    source: Annotated[
        str,
        typer.Option("--source", help="Camera number, stream address (rtsp, http), video, picture, folder or glob."),
    ] = "0",
    score: Score = 0.3,
    classes: Classes = None,
    track: Annotated[bool, typer.Option("--track", help="Track objects: give ids and smooth the boxes.")] = False,
    smooth: Annotated[bool, typer.Option(help="With --track: smoothed boxes, or those of the detector.")] = True,
    hold: Annotated[
        float | None,
        typer.Option("--hold", min=0, show_default="1", help="With --track: seconds that a lost object keeps its id."),
    ] = None,
    sigma: Annotated[bool, typer.Option("--sigma", help="Draw and record the uncertainty of each side.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw a panel with speed, latencies and counts.")] = True,
    record: Annotated[Path | None, typer.Option("--record", help="Record the output to this .mp4.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="No window; one JSON line per frame on stdout.")] = False,
    summary: Annotated[Path | None, typer.Option("--summary", help="Write statistics of the run to this JSON.")] = None,
    patience: Annotated[
        float, typer.Option("--patience", min=0, help="Seconds to wait for a camera or stream that dropped.")
    ] = 30.0,
    input: Input = None,  # noqa: A002
    config: Config = None,
) -> None:
    """Detect live in a camera, a stream or a video, in a window; its keys are listed at the start.

    Cameras and streams show the latest frame, whatever the model's speed; files show every frame.
    """
    from nanogfl.atomic import write_json
    from nanogfl.predictor import load
    from nanogfl.runtime.capture import files_of, open_source
    from nanogfl.runtime.outputs import check_outputs
    from nanogfl.runtime.overlay import Overlay
    from nanogfl.runtime.screen import open_window
    from nanogfl.runtime.webcam import Webcam

    tracker = _tracker(track, smooth, hold)
    opened, chosen = open_source(source, patience), named("--classes", classes, "class")
    check_outputs([model, *files_of(opened)], {"--record": record, "--summary": summary})
    detector = load(model, input=input, config=config)
    chosen = [classes] if classes in detector.names else chosen
    window = None if headless else open_window(f"nanogfl: {model}")
    watching = Webcam(
        detector,
        opened,
        screen=window,
        overlay=Overlay(score, sigma=sigma, figures=figures),
        classes=chosen,
        tracker=tracker,
        record=record,
        report=None if window else lambda found: say(json.dumps(found)),
    )
    try:
        with _stopped_by_signals(watching.stop):
            watching.run()
    finally:  # keeps the statistics of a long run if a stream is lost
        if summary and watching.meter.frames:
            write_json(summary, watching.summary())


def _tracker(track: bool, smooth: bool, hold: float | None) -> Tracker | None:
    """Return the tracker, or None if tracking is not requested."""
    from nanogfl.runtime.track import Tracker

    if not track and (hold is not None or not smooth):
        raise UsageError("--hold and --no-smooth require --track; add it, or omit them")
    return Tracker(smooth=smooth, hold_s=1.0 if hold is None else hold) if track else None


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on SIGINT and SIGTERM, so that recordings are finished; a second signal is handled as before."""
    chosen = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in chosen]

    def restore() -> None:
        for number, handler in zip(chosen, before, strict=True):
            signal.signal(number, handler)

    def handle(*_: object) -> None:
        restore()
        stop()

    for number in chosen:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


@app.command(epilog="Example: nanogfl mine model.onnx unlabelled/ --top 50 --json next.json --draw next/")
def mine(
    model: Model,
    folder: Annotated[str, typer.Argument(help="Folder of unlabelled pictures; 'DIR/**' includes subfolders.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Number of pictures to list, write and draw.")] = 20,
    json_file: Json = None,
    draw: Annotated[Path | None, typer.Option("--draw", help="Folder for these pictures with drawn boxes.")] = None,
    input: Input = None,  # noqa: A002
    config: Config = None,
) -> None:
    """List the unlabelled pictures to label next: those that the model is least certain about."""
    from nanogfl.atomic import write_json
    from nanogfl.predictor import load
    from nanogfl.runtime.mine import mine as run
    from nanogfl.runtime.mine import pictures
    from nanogfl.runtime.outputs import check_outputs

    detector, files = load(model, input=input, config=config), pictures(folder)
    check_outputs([model, *files], {"--json": json_file}, {"--draw": draw})
    with bar(len(files)) as progress:
        ranked = run(detector, folder, draw=draw, top=top, progress=progress)
    first = ranked[:top]
    if json_file:
        write_json(json_file, [mined.to_json() for mined in first])
    for mined in first:
        say(f"{mined.doubt:7.2f} bits  {mined.file}")
    say(
        f"the {len(first)} least certain of {counted(len(ranked), 'picture')}"
        + "".join(f" -> {p}" for p in (draw, json_file) if p)
    )


@app.command(epilog="Example: nanogfl web model.onnx --port 8000")
def web(
    model: Annotated[str, typer.Argument(help="Exported ONNX file of the frame form.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 chooses a free one.")] = 8000,
    host: Annotated[
        str, typer.Option("--host", help="Address; 0.0.0.0 admits other devices, whose cameras need https.")
    ] = "127.0.0.1",
    cert: Annotated[Path | None, typer.Option("--cert", help="Certificate (PEM), to serve https.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Private key (PEM), if not in --cert.")] = None,
) -> None:
    """Serve the browser demo with an exported file of frame form: camera, pictures, latency; and POST /predict."""
    from nanogfl.model.zoo import cache_folder
    from nanogfl.runtime.web import Place, serve

    serve(Path(model), Place(host, port, cert, key), cache_folder(), say)
