"""Prediction on pictures, folders, globs and videos, with JSON records and drawn pictures as results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from nanogfl.decode import Thresholds
from nanogfl.detections import Detections, class_indices
from nanogfl.errors import DataError, UsageError
from nanogfl.pictures import Picture, write_picture
from nanogfl.runtime.draw import draw_detections
from nanogfl.runtime.frames import Frame, expand, frame_rate, frames, is_video
from nanogfl.runtime.outputs import refuse_overwriting
from nanogfl.runtime.video import VideoSink, write_video

log = logging.getLogger(__name__)
NO_SIGMA = (
    "--sigma: this file has no sigma; re-export it with --sigma, or use the checkpoint "
    "(a detector with model.sides=dirac has none)"
)


class Predicts(Protocol):
    """A predictor, as ``nanogfl.load`` returns it."""

    @property
    def names(self) -> list[str]: ...  # noqa: D102

    @property
    def input_size(self) -> tuple[int, int]: ...  # noqa: D102

    def predict(self, source: Picture, score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100) -> Detections:
        """Detect objects in one picture."""
        ...


@dataclass
class Found:
    """A frame and its detections; ``record`` is its entry in the JSON."""

    frame: Frame
    detections: Detections
    record: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        height, width = self.frame.picture.shape[:2]
        self.record = {"file": str(self.frame.file), "width": width, "height": height}
        if self.frame.index is not None:
            self.record |= {"frame": self.frame.index, "time": self.frame.time_s}
        self.record["detections"] = list(self.detections.records())


def predict_sources(
    predictor: Predicts,
    sources: Sequence[str],
    *,
    score: float = 0.3,
    classes: Sequence[str] | None = None,
    sigma: bool = False,
    draw: Path | None = None,
    progress: Callable[[Found], None] | None = None,
) -> list[dict[str, Any]]:
    """Predict on all sources, in order.

    Args:
        predictor: from ``nanogfl.load``.
        sources: pictures, folders, globs, videos.
        score: only detections with a score above this.
        classes: only these classes; all if None.
        sigma: include ``side_sigma`` in the records.
        draw: folder for copies of the pictures and videos with boxes drawn.
        progress: called after each frame.

    Returns:
        One record per frame: file, width, height, detections (for videos also frame, and time in seconds).

    Raises:
        DataError: a source is missing, or none of them could be read.
        UsageError: a score or class is invalid, the model gives no sigma, or a drawing would replace a source.
    """
    Thresholds(score)  # raises for an invalid score before anything is read
    if classes is not None:
        class_indices(classes, predictor.names)
    files = expand(sources)
    targets = _targets(files, draw) if draw else {}
    records: list[dict[str, Any]] = []
    broken: list[DataError] = []
    for file in files:
        found_in_file = (
            Found(frame, _selected(predictor.predict(frame.picture, score), classes, sigma))
            for frame in _read_frames(file, broken)
        )
        for found in _draw_frames(found_in_file, file, targets.get(file)):
            records.append(found.record)
            if progress:
                progress(found)
    if broken and not records:
        raise (
            broken[0] if len(files) == 1 else DataError(f"none of {len(files)} files could be read; first: {broken[0]}")
        )
    for error in broken:
        log.warning("skipped: %s", error)
    return records


def _read_frames(file: Path, broken: list[DataError]) -> Iterator[Frame]:
    """Yield a file's frames; append an error that ends it early to ``broken``."""
    try:
        yield from frames(file)
    except DataError as error:
        broken.append(error)


def _selected(detections: Detections, classes: Sequence[str] | None, sigma: bool) -> Detections:
    """Return the detections of these classes, with the deviation of the sides only if ``sigma`` is set."""
    if not sigma:
        return replace(detections, side_sigma=None).of_classes(classes)
    if detections.side_sigma is None:
        raise UsageError(NO_SIGMA)
    return detections.of_classes(classes)


def _draw_frames(frames_of_file: Iterator[Found], file: Path, target: Path | None) -> Iterator[Found]:
    """Yield the frames unchanged, and draw each one if there is a target."""
    with ExitStack() as stack:
        sink: VideoSink | None = None
        for found in frames_of_file:
            frame = found.frame
            if target is not None:
                drawn = draw_detections(frame.picture, found.detections)
                if not is_video(file):
                    write_drawing(target, drawn)
                else:
                    if sink is None:
                        sink = stack.enter_context(write_video(target, frame_rate(file), drawn.shape[:2]))
                    sink.write(drawn)
            yield found


def write_drawing(path: Path, drawing: Picture) -> None:
    """Write one drawing of many; one that is too large for its format is left out, with a warning."""
    try:
        write_picture(path, drawing)
    except DataError as error:
        log.warning("not drawn: %s", error)


def _targets(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Return each file's drawing; files of one name (in any case) from several folders get a number."""
    numbers: dict[str, int] = {}
    taken: set[str] = set()
    targets = {}
    for file in files:
        suffix = (
            ".mp4" if is_video(file) else file.suffix if file.suffix.lower() in (".png", ".bmp", ".webp") else ".jpg"
        )
        name = file.stem + suffix
        same = name.casefold()  # most disks of macOS and Windows keep one file of names that differ in case
        number = numbers.get(same, 0)
        while name.casefold() in taken:  # another file's own name may already end in this number
            number += 1
            name = f"{file.stem}_{number}{suffix}"
        numbers[same] = number
        taken.add(name.casefold())
        targets[file] = folder / name
    refuse_overwriting(files, [("--draw", target) for target in targets.values()])
    return targets
