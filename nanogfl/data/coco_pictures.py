"""Where the pictures of COCO's jsons lie: where their names lead, else where the only file of such a name is."""

from __future__ import annotations

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from nanogfl.data import splits
from nanogfl.data.coco_files import ANNOTATION_FOLDERS, Source
from nanogfl.data.folders import subfolders
from nanogfl.members import is_file
from nanogfl.pictures import SUFFIXES

PICTURE_FOLDERS = ("images", "data", "jpegimages")

Found = dict[str, Path | None]


def find_pictures(root: Path, sources: Sequence[Source], files: Sequence[Sequence[str]]) -> list[Found]:
    """For each json: where each of its file names leads; None where that is out of the set.

    A name that leads nowhere, or out, means the only picture under the root that has its last part, else its stem: no
    picture that another name leads to, and none that several such names could mean.
    """
    folders = [_picture_folders(root, source) for source in sources]
    found: list[Found] = [{f: _direct(f, o) for f in own} for own, o in zip(files, folders, strict=True)]
    lost = {file for paths in found for file, path in paths.items() if path is None}
    meant = _meant(root, lost, {path for paths in found for path in paths.values() if path}) if lost else {}
    for paths, (first, *_) in zip(found, folders, strict=True):
        for file in (f for f, path in paths.items() if path is None):
            inner = inside(file)
            paths[file] = meant.get(file) or (first / inner if inner else None)
    return found


def inside(file: str) -> PurePosixPath | None:
    """Read a file name as a relative path that stays where it starts; None where it does not."""
    path = PurePosixPath(file.replace("\\", "/"))
    harmful = not path.parts or path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":") or "\0" in file
    return None if harmful else path


def misleading(file: str, path: Path) -> bool:
    """Whether a name is that of another place than the one its picture was found in."""
    inner = inside(file)
    return inner is None or path.parts[-len(inner.parts) :] != inner.parts


def _direct(file: str, folders: Sequence[Path]) -> Path | None:
    """Look for the file in these folders, the likeliest first."""
    inner = inside(file)
    for folder in folders if inner else ():
        with contextlib.suppress(OSError):  # a name that no file system takes
            if is_file(path := folder / str(inner)):
                return path
    return None


def _meant(root: Path, lost: set[str], named: set[Path]) -> dict[str, Path]:
    """The picture that each lost name means, where only one can be."""
    by_name, by_stem = _all_pictures(root)
    meant: dict[str, Path] = {}
    for file in lost:
        name = PurePosixPath(file.replace("\\", "/")).name
        options = by_name.get(name) or by_stem.get(name) or by_stem.get(PurePosixPath(name).stem) or []
        if len(options) == 1 and options[0] not in named:
            meant[file] = options[0]
    askers = Counter(meant.values())
    return {file: path for file, path in meant.items() if askers[path] == 1}


def _all_pictures(root: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """All pictures under the root, by name and by stem; links to other folders are not followed."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 - of 100,000 names
            if suffix.lower() in SUFFIXES and not name.startswith("."):
                path = Path(folder, name)
                by_name[name].append(path)
                by_stem[stem].append(path)
    return by_name, by_stem


def _picture_folders(root: Path, source: Source) -> list[Path]:
    """Where this json's pictures may lie, the likeliest first: its split's folders, beside it, the usual places."""
    usual = [f for n, f in subfolders(root).items() if n in PICTURE_FOLDERS]
    inner = [f for place in (root, *usual) for f in subfolders(place).values() if f not in usual]
    own = [f for f in inner if source.split and splits.named(f.name) == source.split]
    exact = [f for f in own if source.path.stem.endswith(f.name)]
    others = [f for f in inner if not splits.named(f.name) and f.name.lower() not in ANNOTATION_FOLDERS]
    return list(dict.fromkeys([*exact, *own, source.path.parent, root, *usual, *others]))
