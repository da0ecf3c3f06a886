"""All errors that a user can encounter, as one hierarchy.

::

    NanogflError            exit code 1: the work or the data failed
    ├── DataError           a picture, an annotation, or a set that cannot be used
    ├── ModelError          a checkpoint or an ONNX file that cannot be used
    ├── DownloadError       a published file that could not be fetched
    ├── TrainingError       training that cannot continue
    ├── ExportError         a failed export, check or benchmark of an exported file
    └── UsageError          exit code 2: the command itself is wrong
        └── RecipeError     a recipe key or value that is wrong

A message is one line that states what is wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 1000  # characters in a message; quoted text may have any length


class NanogflError(Exception):
    """Base class of all errors of nanogfl: the work or the data failed."""

    exit_code = 1

    def __str__(self) -> str:
        line = " ".join(super().__str__().split())
        return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


class DataError(NanogflError):
    """A picture, an annotation, or a data set that cannot be used."""


class ModelError(NanogflError):
    """A checkpoint or an ONNX file that cannot be used."""


class DownloadError(NanogflError):
    """A published file that could not be fetched."""


class TrainingError(NanogflError):
    """Training that cannot continue."""


class ExportError(NanogflError):
    """A failed export, check or benchmark of an exported file."""


class UsageError(NanogflError):
    """An error in the command or its arguments."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe key or value that is wrong."""


def counted(number: int, one: str) -> str:
    """Return a number with its noun, such as ``1 box`` and ``2 boxes``."""
    return f"{number} {one}{'' if number == 1 else 'es' if one[-1] in 'sx' else 's'}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean X?)"`` for the closest known word, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {match[0]}?)" if match else ""
