"""Problems of pictures: damage, formats and suffixes, size, EXIF orientation, missing colour."""

from __future__ import annotations

from collections.abc import Sequence

from nanogfl.data.findings import Findings
from nanogfl.data.table import Example
from nanogfl.doctor.inspection import Inspection
from nanogfl.pictures import JPEGS

SUFFIXES = {
    "JPEG": JPEGS,
    "MPO": (".jpg", ".jpeg"),  # two views in one JPEG, written by some phones
    "PNG": (".png",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
LARGE = 40_000_000  # px; takes half a second to decode


def note_pictures(examples: Sequence[Example], inspections: Sequence[Inspection], notes: Findings) -> None:
    """Note the problems of each picture that the readers accept."""
    lying = {f.file for f in notes.found if f.kind == "picture-lying"}
    for example, inspection in zip(examples, inspections, strict=True):
        width, height = inspection.size
        if inspection.flaw:
            notes.add("picture-truncated", example.name, "", inspection.flaw[:200])
        if inspection.form and example.path.suffix.lower() not in SUFFIXES.get(inspection.form, ()):
            known = "" if inspection.form in SUFFIXES else ", which some readers do not support"
            suffix = example.path.suffix or "no suffix"
            notes.add(
                "picture-suffix", example.name, "", f"{suffix}, but the file's format is {inspection.form}{known}"
            )
        if width * height > LARGE:
            notes.add("picture-large", example.name, "", f"{width}x{height} px")
        if inspection.orientation != 1 and example.name not in lying:
            detail = f"EXIF orientation {inspection.orientation}: the file is {width}x{height}, the upright picture is "
            notes.add("picture-rotated", example.name, "", f"{detail}{example.width}x{example.height}")
        if inspection.gray:
            notes.add("picture-gray", example.name)


def good_suffix(inspection: Inspection, suffix: str) -> str:
    """Return the suffix for a copy of this file: its own if that matches the format."""
    fitting = SUFFIXES.get(inspection.form, (".png",))
    return suffix if suffix.lower() in fitting else fitting[0]
