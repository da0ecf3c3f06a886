"""Where results may be written: not over what is read, and only where a file can be made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from nanogfl.errors import UsageError


def check_outputs(
    sources: Iterable[str | Path], files: Mapping[str, Path | None], folders: Mapping[str, Path | None] | None = None
) -> None:
    """Refuse what cannot be written, or would take the place of a source; called before any work is done.

    Args:
        sources: all that is read, the model too.
        files: the files to be written, by their options; None for those that nobody asked for.
        folders: those to be filled; the names of what goes there are :func:`spare`'s affair.

    Raises:
        UsageError: one of them, by its option.
    """
    given = [(option, path) for option, path in files.items() if path is not None]
    spare(sources, given)
    for option, path in given:
        if path.is_dir():
            raise UsageError(f"{option} {path} is a folder; name a file")
        _check_place(option, path)
    for option, folder in (folders or {}).items():
        if folder is None:
            continue
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{option} {folder} is a file; name a folder")
        _check_place(option, folder, folder / "any")


def spare(sources: Iterable[str | Path], targets: Iterable[tuple[str, Path]]) -> None:
    """Refuse to write where one of the sources, or another target, lies.

    Args:
        sources: all that is read.
        targets: files to be written, each with the option that asks for it.

    Raises:
        UsageError: one of them, or a target that would be a file here and a folder there.
    """
    taken = {Path(source).resolve(): f"{source}, which is read" for source in sources}
    written: dict[Path, str] = {}
    above: dict[Path, str] = {}
    for option, target in targets:
        place = target.resolve()
        if place in taken:
            raise UsageError(f"{option}: {target} would be written over {taken[place]}; name another place")
        if rival := above.get(place) or next((written[p] for p in place.parents if p in written), ""):
            raise UsageError(f"{option}: {target} and what {rival} writes would lie in each other; name another place")
        if not target.exists() or target.is_file() or target.is_dir():  # a device takes any number
            taken[place] = f"what {option} writes"
            written[place] = option
            above.update(dict.fromkeys(place.parents, option))


def _check_place(option: str, named: Path, file: Path | None = None) -> None:
    """A device must be writable; of a file its folder, or the nearest one above that is there."""
    path = file or named
    special = path.exists() and not path.is_file()
    place = path if special else next(parent for parent in path.resolve().parents if parent.exists())
    if not (special or place.is_dir()):
        raise UsageError(f"{option} {named}: {place} is a file, not a folder; name another place")
    if not os.access(place, os.W_OK if special else os.W_OK | os.X_OK):
        raise UsageError(f"{option} {named}: {place} cannot be written; name another place, or change its rights")
