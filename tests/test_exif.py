"""A picture lies as OpenCV, which training reads with, says: for the readers, for the doctor, and in its copy."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dirty import BOXES, HEIGHT, WIDTH, scene, write, xml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nanogfl.data.exif import orientation_of, upright
from nanogfl.data.headers import Header, read_header
from nanogfl.doctor.check import check
from nanogfl.doctor.fix import write_copy
from nanogfl.doctor.inspection import inspect
from nanogfl.pictures import read_picture

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
EXIF = Image.Exif()
EXIF[0x0112] = 6


def as_text(key: str) -> PngInfo:
    """A PNG's text of this name that says that the picture lies."""
    info, said = PngInfo(), EXIF.tobytes()
    if key.startswith("Raw"):
        info.add_text(key, f"\nexif\n{len(said):8}\n{said.hex()}\n", zip=True)
    else:
        info.add_itxt(key, XMP.decode())
    return info


def exif_behind_pixels(path: Path) -> None:
    """Move a PNG's EXIF behind its pixels, where the form allows it too."""
    data, chunk = path.read_bytes(), b"eXIf" + EXIF.tobytes().removeprefix(b"Exif\0\0")
    end = data.rindex(b"IEND") - 4
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(data[:end] + chunk + data[end:])


@pytest.mark.parametrize(
    ("name", "options", "orientation", "reason"),
    [
        ("a.jpg", {"exif": EXIF}, 6, "EXIF counts"),
        ("a.png", {"exif": EXIF}, 6, "in a PNG too"),
        ("late.png", {}, 6, "also behind the pixels"),
        ("a.jpg", {"xmp": XMP}, 1, "XMP does not"),
        ("a.webp", {"xmp": XMP, "lossless": True}, 1, "XMP does not"),
        ("a.png", {"pnginfo": as_text("XML:com.adobe.xmp")}, 1, "nor as a PNG's text"),
        ("a.png", {"pnginfo": as_text("Raw profile type exif")}, 1, "nor ImageMagick's text"),
    ],
)
def test_a_picture_is_turned_by_exif_alone(
    tmp_path: Path, name: str, options: dict[str, Any], orientation: int, reason: str
) -> None:
    path = tmp_path / "set/JPEGImages" / name
    path.parent.mkdir(parents=True)
    Image.fromarray(scene("a")).save(path, **options)
    if name == "late.png":
        exif_behind_pixels(path)
    write(tmp_path / f"set/Annotations/{path.stem}.xml", xml(name, BOXES.items()))
    assert read_header(path) == Header((WIDTH, HEIGHT), orientation), reason
    assert inspect(path).orientation == orientation
    picture = read_picture(path)
    assert picture.shape[:2] == ((WIDTH, HEIGHT) if orientation == 6 else (HEIGHT, WIDTH)), "as OpenCV reads it"
    found = check(tmp_path / "set")
    assert found.counts.get("picture-lying", 0) == (orientation == 6)
    write_copy(found, tmp_path / "copy")
    (copied,) = check(tmp_path / "copy").table.examples
    np.testing.assert_allclose(read_picture(copied.path).astype(int), picture, atol=6)
    np.testing.assert_allclose(copied.boxes, found.table.examples[0].boxes, atol=2e-3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("order", "kind", "value", "orientation", "reason"),
    [
        ("<", 3, "H2x", 6, "a SHORT, as EXIF wants it"),
        (">", 3, "H2x", 6, "of either order"),
        ("<", 4, "I", 6, "a LONG, whose first half it is"),
        (">", 4, "I", 1, "whose first half is 0"),
        (">", 9, "i", 1, "the same with a sign"),
        (">", 8, "h2x", 6, "a SHORT with a sign"),
        ("<", 1, "B3x", 6, "a BYTE, and a zero behind it"),
        (">", 1, "B3x", 1, "which is 1536 in this order"),
        ("<", 3, "H2x", 6, "twice: the first counts"),
    ],
)
def test_an_orientation_is_two_bytes_of_whatever_type(
    tmp_path: Path, form: str, order: str, kind: int, value: str, orientation: int, reason: str
) -> None:
    tag = struct.pack(f"{order}HHI{value}", 0x0112, kind, 1, 6)
    tags = [tag, struct.pack(f"{order}HHIH2x", 0x0112, 3, 1, 8)] if "twice" in reason else [tag]
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    said = b"Exif\0\0" + head + b"".join(tags) + bytes(4)
    path = tmp_path / f"a.{form.lower()}"
    Image.fromarray(scene("a")).save(path, form, exif=said)
    assert read_header(path) == Header((WIDTH, HEIGHT), orientation), reason
    assert read_picture(path).shape[:2] == ((WIDTH, HEIGHT) if orientation == 6 else (HEIGHT, WIDTH)), "as OpenCV reads"
    assert inspect(path).orientation == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (500, 400)], ids=["small", "larger than a buffer"])
def test_every_orientation_is_turned_as_opencv_turns_it(
    tmp_path: Path, size: tuple[int, int], orientation: int
) -> None:
    said, path = Image.Exif(), tmp_path / "a.png"
    said[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).save(path, **({} if orientation == 1 else {"exif": said}))
    with Image.open(path) as picture:
        turned = np.asarray(upright(picture, orientation_of(picture)))
    np.testing.assert_array_equal(turned[..., ::-1], read_picture(path))


def test_the_pixels_of_a_png_are_not_read_to_look_behind_them(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")

    class Counted(BytesIO):
        got = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.got += len(data)
            return data

    with Counted((tmp_path / "a.png").read_bytes()) as file, Image.open(file) as picture:
        assert orientation_of(picture) == 1
        assert file.got < 1000, "of 480,000 bytes"
        assert np.array_equal(np.asarray(picture), noise), "and the picture is decoded from where it was"
