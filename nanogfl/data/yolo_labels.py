"""YOLO label files: locating the file of a picture, and parsing its lines into boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite, nan
from pathlib import Path

from nanogfl.data.data_yaml import CLASS_LIMIT
from nanogfl.data.findings import Findings, listed
from nanogfl.data.folders import files_in, lookup, relative, subfolders
from nanogfl.data.text import read_text
from nanogfl.errors import DataError

Row = tuple[int, float, float, float, float]
Rows = dict[int, Row]  # by line number
TEXT = frozenset({".txt"})


class Labels:
    """A lookup of the label files of pictures; each folder is listed only once."""

    def __init__(self) -> None:
        self._files: dict[Path, dict[str, Path]] = {}
        self._folders: dict[Path, list[Path]] = {}

    def of(self, picture: Path) -> Iterator[Path]:
        """Yield the possible label files of a picture, the likeliest first; they need not exist."""
        for folder in self.folders(picture.parent):
            if folder not in self._files:
                self._files[folder] = {p.stem: p for p in files_in(folder, TEXT)} if folder.is_dir() else {}
            yield lookup(self._files[folder], picture.stem) or folder / f"{picture.stem}.txt"

    def folders(self, pictures: Path) -> list[Path]:
        """Return the label folders of a picture folder: its path with ``images`` replaced by ``labels``, then itself.

        Both names match in any case.
        """
        if pictures not in self._folders:
            parts = pictures.parts
            last = max((i for i, part in enumerate(parts) if part.lower() == "images"), default=None)
            twins = [] if last is None else [_twin(Path(*parts[:last])).joinpath(*parts[last + 1 :])]
            self._folders[pictures] = [*twins, pictures]
        return self._folders[pictures]


def _twin(holder: Path) -> Path:
    try:
        return subfolders(holder).get("labels", holder / "labels")
    except PermissionError:  # the folder may lie far above the dataset
        return holder / "labels"


def read_labels(files: Iterable[Path], root: Path, points: int, notes: Findings) -> Rows | None:
    """Read the first existing file: boxes as (class, x1 y1 x2 y2 in fractions) by line; None if no file exists.

    Args:
        files: possible label files of a picture.
        root: root of the dataset, for the paths in findings.
        points: how many key point numbers follow each box; they are ignored.
        notes: receives findings on lines that are not boxes and on polygons.

    Raises:
        DataError: the file exists, but cannot be read.
    """
    for file in files:
        try:
            lines = read_text(file).splitlines()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror}; check names and permissions") from error
        where = relative(file, root)
        words = {number: line.split() for number, line in enumerate(lines, 1) if line.strip()}
        if points:
            words = {number: line[:5] if len(line) == 5 + points else line for number, line in words.items()}
        read = {number: row_of(line) for number, line in words.items()}
        rows = {number: row for number, row in read.items() if row}
        for number in words.keys() - rows.keys():
            notes.add("box-malformed", where, f"line {number}", lines[number - 1].strip()[:80])
        polygons = [number for number in rows if len(words[number]) > 5]
        if polygons:
            notes.add("box-polygon", where, listed("line", polygons), f"{len(polygons)} of {len(rows)} lines")
        return rows
    return None


def row_of(words: list[str]) -> Row | None:
    """Parse a line into class and corners, from centre and size or from a polygon; return None if it is neither."""
    try:
        label, *values = map(float, words)
    except ValueError:
        return None
    if not isfinite(label) or not 0 <= label < CLASS_LIMIT or label != int(label):
        return None
    if not all(map(isfinite, values)):
        return int(label), nan, nan, nan, nan
    if len(values) == 4:
        x, y, width, height = values
        return int(label), x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) < 6 or len(values) % 2:
        return None
    return int(label), min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
