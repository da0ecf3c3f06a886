"""Problems of file names, and files in the dataset's folders that no annotation or list mentions."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nanogfl.data.findings import Findings
from nanogfl.data.folders import nfc, relative
from nanogfl.data.table import Example, Table
from nanogfl.data.yolo_labels import TEXT, Labels
from nanogfl.errors import counted
from nanogfl.pictures import SUFFIXES

OTHER_FORMS = frozenset({".gif", ".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm", ".dng", ".psd", ".svg"})
PLAIN = re.compile(r"[A-Za-z0-9_.+,()\[\]@-]+")
LONGEST = 180  # bytes of one name; file systems allow 255, archives and our own suffixes leave less
COMPANIONS = re.compile(r"mask|segment|panoptic|stuff|depth|thumb")  # folders of auxiliary pictures
CLASS_LISTS = frozenset({"classes", "labels", "obj", "readme", "notes"})


def note_names(table: Table, notes: Findings) -> None:
    """Note file names that are odd, or that collide on some file systems or for some readers."""
    for example in table.examples:
        if reason := oddity(example.name):
            notes.add("name-odd", example.name, "", reason)
    _note_collisions(table, _by_case, "differ only in case", notes)
    if table.form == "yolo":
        _note_collisions(table, _by_stem, "share one label file", notes)


def _note_collisions(table: Table, same: Callable[[str], str], why: str, notes: Findings) -> None:
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in table.examples:
        groups[same(example.name)].append(example)
    for group in groups.values():
        for example in group[1:]:
            notes.add("name-collides", example.name, "", f"{group[0].name} and this {why}")


def oddity(name: str) -> str:
    """Return what is odd about a relative path; empty if nothing is."""
    parts = name.split("/")
    odd = sorted({c for part in parts for c in PLAIN.sub("", part)})
    if odd:
        shown = ", ".join(_shown(c) for c in odd[:5])
        return f"contains {shown}"
    if any(part.startswith("-") for part in parts):
        return "begins with -, like an option"
    return "is very long" if any(len(part) > LONGEST for part in parts) else ""


def plain_name(name: str) -> str:
    """Return a file name without oddities: accents are dropped, other odd characters become underscores."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    text = re.sub(r"[^A-Za-z0-9_.+,()\[\]@-]+", "_", text).lstrip("-.") or "_"
    return text[-LONGEST:]


def note_orphans(table: Table, notes: Findings, whole: bool = True) -> None:
    """Note pictures without an annotation or in unsupported formats, and label files without a picture.

    If ``whole`` is set, also note each folder below the root that has pictures but is not mentioned anywhere.
    """
    spoken = {example.name for example in table.examples} | {f.file for f in notes.found}
    folders = {example.path.parent for example in table.examples}
    known = folders | {(table.root / name).parent for name in spoken if Path(name).suffix.lower() in SUFFIXES}
    for path in sorted(p for folder in folders for p in _files(folder)):
        name = relative(path, table.root)
        suffix = path.suffix.lower()
        if suffix in OTHER_FORMS and name not in spoken:
            notes.add("picture-form", name, "", f"{suffix} files are ignored")
        elif suffix in SUFFIXES and name not in spoken:
            notes.add("picture-unannotated", name, "", "no annotation mentions it")
    for folder, count in _unspoken_folders(table.root, known) if whole else ():
        notes.add("folder-unlisted", folder, "", f"{counted(count, 'picture')}, none listed")
    if table.form == "yolo":
        _note_orphan_labels(table, notes)


def _unspoken_folders(root: Path, known: set[Path]) -> Iterator[tuple[str, int]]:
    """Yield folders below the root that have pictures and are not known, with their number; skip masks and links."""
    spoken = {str(folder) for folder in known}
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if name[0] != "." and not COMPANIONS.search(name.lower()))
        if folder not in spoken and folder != str(root):
            count = sum(name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES for name in files)  # noqa: PTH122
            if count:
                yield relative(Path(folder), root), count


def _note_orphan_labels(table: Table, notes: Findings) -> None:
    named = {example.name for example in table.examples} | {f.file for f in notes.found}
    pictures = [table.root / name for name in named if Path(name).suffix.lower() in SUFFIXES]
    labels = Labels()
    known = {file for picture in pictures for file in labels.of(picture)}
    folders = {labels.folders(e.path.parent)[0] for e in table.examples if "images" in e.name.lower()}
    for file in sorted(p for folder in folders for p in _files(folder)):
        if file.suffix.lower() in TEXT and file not in known and file.stem.lower() not in CLASS_LISTS:
            name = relative(file, table.root)
            notes.add("picture-missing", name, "", "a label file without a picture")


def _files(folder: Path) -> Sequence[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / e.name for e in entries if e.is_file() and not e.name.startswith(".")]
    except OSError:
        return []


def _by_case(name: str) -> str:
    return nfc(name).casefold()


def _by_stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _shown(character: str) -> str:
    if character == " ":
        return "a space"
    return repr(character) if character.isascii() else f"{character!a} ({unicodedata.name(character, 'no character')})"
