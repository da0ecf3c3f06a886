"""Pictures and videos on disk: expansion of a command's sources into files, and reading of their frames."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from nanogfl.errors import DataError, nearest
from nanogfl.pictures import SUFFIXES, Picture, read_picture
from nanogfl.runtime.holes import HIGHEST_RATE, readable

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
USUAL_RATE = 25.0  # frames per second, if a file does not give its rate


@dataclass(frozen=True)
class Frame:
    """An upright picture and its origin.

    Attributes:
        picture: uint8 BGR [H, W, 3].
        file: the picture or the video.
        index: 0, 1, 2... within a video; None for a still picture.
        time_s: seconds since the start of the video; None for a still picture.
    """

    picture: Picture
    file: Path
    index: int | None = None
    time_s: float | None = None


def is_video(path: str | Path) -> bool:
    """Return whether the file's suffix is that of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def expand(sources: Sequence[str]) -> list[Path]:
    """Return the files that files, folders and globs refer to: in the order given, without duplicates.

    - A file is taken whatever its suffix; reading it fails if it is not a picture. Devices and pipes are refused.
    - A folder gives its own pictures and videos in natural order (2 before 10), without hidden ones and without
      those of its subfolders (``folder/**`` includes these).
    - A glob (``*``, ``?``, ``[...]``; ``**`` any depth) that is not the name of an existing file gives the matching
      pictures and videos and those of matching folders; if there are none, all matching files.

    Raises:
        DataError: a source is missing, cannot be accessed, or contains no picture or video.
    """
    return list(dict.fromkeys(path for source in sources for path in _expand_one(source)))


def frames(path: str | Path) -> Iterator[Frame]:
    """Yield the picture of a still file, or every frame of a video that can be decoded, in order, upright.

    Frames of a video that cannot be decoded are counted, but left out; a warning at its end says how many.

    Raises:
        DataError: the file is missing, damaged, or neither picture nor video.
    """
    path = Path(path)
    if is_video(path):
        yield from _video_frames(path)
    else:
        yield Frame(read_picture(path), path)


def frame_rate(path: str | Path) -> float:
    """Return the frames per second given in a video's header, or 25 if this is missing or implausible."""
    capture = _open_video(Path(path))
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
    finally:
        capture.release()
    return rate if 0 < rate <= HIGHEST_RATE else USUAL_RATE


def _expand_one(source: str) -> list[Path]:
    if not source:
        raise DataError("the path is empty; specify a file, a folder or a glob")
    try:
        return _look(source, Path(source))
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}; check the path and its permissions") from error


def _look(source: str, path: Path) -> list[Path]:
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return [path]
    if path.exists():  # reading a device or a pipe may never end
        raise DataError(f"cannot read {source}: it is a device or a pipe; save its output to a file")
    if glob.has_magic(source):
        return _glob(source)
    if "://" in source or source.isdecimal():
        raise DataError(f"cannot read {source}: not a file; for cameras and streams use nanogfl webcam --source")
    raise DataError(f"cannot find {source}: {_missing(path)}; check the path")


def _folder(folder: Path) -> list[Path]:
    files = _usable(folder.iterdir())
    if not files:
        inside = any(p.is_dir() and not p.name.startswith(".") for p in folder.iterdir())
        hint = f"for its subfolders use '{folder}/**'" if inside else "use another folder"
        raise DataError(f"no picture or video in the folder {folder}; {hint}")
    return files


def _glob(pattern: str) -> list[Path]:
    matches = {Path(p) for p in glob.glob(pattern, recursive=True)}  # noqa: PTH207 - Path.glob rejects absolute ones
    folders = {p for p in matches if p.is_dir()}
    files = _usable(matches.union(*(folder.iterdir() for folder in folders)))
    files = files or sorted((p for p in matches if p.is_file()), key=_natural)
    if not files:
        raise DataError(f"no picture or video matches {pattern}; check the pattern")
    return files


def _usable(paths: Iterator[Path] | set[Path]) -> list[Path]:
    """Return the pictures and videos among the paths in natural order, without hidden files."""
    known = SUFFIXES | VIDEO_SUFFIXES
    usable = (p for p in paths if p.suffix.lower() in known and not p.name.startswith(".") and p.is_file())
    return sorted(usable, key=_natural)


def _natural(path: Path) -> list[tuple[list[str | int], str]]:
    """Return a sort key: folder by folder, numbers by value, letters compared without case first."""
    return [(_pieces(part), part) for part in path.parts]


def _pieces(part: str) -> list[str | int]:
    # re.split puts words at even and numbers at odd indices, so that words are never compared with numbers
    return [int(piece) if i % 2 else piece for i, piece in enumerate(re.split(r"(\d+)", part.casefold()))]


def _missing(path: Path) -> str:
    """Return a message with the first missing part of this path and the nearest existing name."""
    while not path.parent.exists():
        path = path.parent
    folder = path.parent
    if not folder.is_dir():
        return f"{folder} is a file, not a folder"
    return f"no {path.name} in {folder.absolute()}{nearest(path.name, (p.name for p in folder.iterdir()))}"


def utf8(name: str | Path) -> str:
    """Return a video's name; raise DataError if it is not UTF-8, for which OpenCV would end the whole process."""
    try:
        str(name).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"cannot open the video {name}: its name is not UTF-8, as OpenCV requires; rename it"
        ) from error
    return str(name)


def _open_video(path: Path) -> cv2.VideoCapture:
    if not path.is_file():
        raise DataError(f"cannot read the video {path}: no such file; check the path")
    capture = cv2.VideoCapture(utf8(path))
    if not capture.isOpened():
        raise DataError(f"cannot open the video {path}: it is damaged or its codec is unknown; convert it to mp4")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _video_frames(path: Path) -> Iterator[Frame]:
    capture = _open_video(path)
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        for index, picture in readable(capture, path):
            if picture is not None:
                yield Frame(picture, path, index, _seconds(capture, index, rate))
    finally:
        capture.release()


def _seconds(capture: cv2.VideoCapture, index: int, rate: float) -> float:
    """Return the time of the frame just read: its timestamp, or index / rate if the backend gives no timestamps."""
    stamp = float(capture.get(cv2.CAP_PROP_POS_MSEC))
    if index == 0 or stamp > 0:
        return max(stamp, 0.0) / 1000
    return index / (rate if 0 < rate <= HIGHEST_RATE else USUAL_RATE)
