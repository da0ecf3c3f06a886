"""Checks of output paths: no output replaces an input, and every output can be written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from nanogfl.errors import UsageError


def check_outputs(
    sources: Iterable[str | Path], files: Mapping[str, Path | None], folders: Mapping[str, Path | None] | None = None
) -> None:
    """Refuse outputs that cannot be written or would replace a source; to be called before any work is done.

    Args:
        sources: all paths that are read, including the model.
        files: files to be written, by option; None if the option is not given.
        folders: folders to be filled, by option; :func:`refuse_overwriting` checks the files in them.

    Raises:
        UsageError: an output is refused; the message names its option.
    """
    given = [(option, path) for option, path in files.items() if path is not None]
    refuse_overwriting(sources, given)
    for option, path in given:
        if path.is_dir():
            raise UsageError(f"{option} {path} is a folder; specify a file")
        _check_place(option, path)
    for option, folder in (folders or {}).items():
        if folder is None:
            continue
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{option} {folder} is a file; specify a folder")
        _check_place(option, folder, folder / "any")


def refuse_overwriting(sources: Iterable[str | Path], targets: Iterable[tuple[str, Path]]) -> None:
    """Refuse targets that would replace a source or another target.

    Args:
        sources: all paths that are read.
        targets: files to be written, each with its option.

    Raises:
        UsageError: a target is a source or another target, or lies inside another target.
    """
    taken = {Path(source).resolve(): f"the input {source}" for source in sources}
    written: dict[Path, str] = {}
    above: dict[Path, str] = {}
    for option, target in targets:
        place = target.resolve()
        if place in taken:
            raise UsageError(f"{option}: {target} would overwrite {taken[place]}; choose another path")
        if rival := above.get(place) or next((written[p] for p in place.parents if p in written), ""):
            raise UsageError(f"{option}: {target} and the output of {rival} would be nested; choose another path")
        if not target.exists() or target.is_file() or target.is_dir():  # several outputs may go to one device
            taken[place] = f"the output of {option}"
            written[place] = option
            above.update(dict.fromkeys(place.parents, option))


def _check_place(option: str, named: Path, file: Path | None = None) -> None:
    """Check that a device is writable, or, for a file, its folder or the nearest existing folder above."""
    path = file or named
    special = path.exists() and not path.is_file()
    place = path if special else next(parent for parent in path.resolve().parents if parent.exists())
    if not (special or place.is_dir()):
        raise UsageError(f"{option} {named}: {place} is a file, not a folder; choose another path")
    if not os.access(place, os.W_OK if special else os.W_OK | os.X_OK):
        raise UsageError(f"{option} {named}: {place} is not writable; choose another path, or change its permissions")
