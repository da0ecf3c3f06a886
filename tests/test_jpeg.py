"""JPEGs that are cut, holed or sewn together are seen; sound ones of every kind, whatever follows them, are not."""

from __future__ import annotations

import io
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dirty import scene
from PIL import Image, ImageFile

from nanogfl.doctor.inspection import inspect
from nanogfl.doctor.jpeg import Anatomy, Stream, anatomy

WAYS: list[dict[str, Any]] = [
    {},
    {"quality": 100, "subsampling": 0},
    {"quality": 20, "optimize": True},
    {"progressive": True},
    {"restart_marker_blocks": 5},
    {"progressive": True, "restart_marker_rows": 1},
]


def jpeg(mode: str = "RGB", size: tuple[int, int] = (400, 300), **options: Any) -> bytes:
    """A picture of clouds and noise; a part of it is the grey that decoders put where nothing is."""
    noise = np.random.default_rng(0).integers(-20, 20, (size[1], size[0], 3))
    pixels = np.clip(scene("z", *size).astype(int) + noise, 0, 255).astype(np.uint8)
    pixels[size[1] // 3 : size[1] // 2] = 128
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def flaw(data: bytes, folder: Path) -> str:
    (folder / "a.jpg").write_bytes(data)
    return inspect(folder / "a.jpg").flaw


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_sound_pictures_are_sound(options: dict[str, Any], tmp_path: Path) -> None:
    for mode, size in itertools.product(("RGB", "L", "CMYK"), ((400, 300), (17, 9), (1, 1))):
        given = {k: v for k, v in options.items() if k != "subsampling" or mode == "RGB"}
        assert flaw(jpeg(mode, size, **given), tmp_path) == ""


def test_what_follows_a_picture_is_no_part_of_it(tmp_path: Path) -> None:
    """A phone's film behind its still, a second view, padding, another picture's head."""
    rng = np.random.default_rng(1)
    film = b"\0\0\0\x18ftypmp42" + rng.bytes(50_000).replace(b"\xff\xd9", b"")
    for options, rest in itertools.product(WAYS, (film, bytes(1000), bytes(5000), jpeg()[:3000], jpeg())):
        assert flaw(jpeg(**options) + rest, tmp_path) == ""


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_picture_cut_short_is_seen_with_and_without_a_new_end(options: dict[str, Any], tmp_path: Path) -> None:
    data = jpeg(**options)
    for length in (len(data) // 4, len(data) // 2, len(data) - 900):
        assert flaw(data[:length], tmp_path)
        if "progressive" not in options or length == len(data) // 4:  # what the last pass lacks is only fine
            assert flaw(data[:length] + b"\xff\xd9", tmp_path)


@pytest.mark.parametrize("options", WAYS[:3], ids=str)
def test_holes_and_losses_are_seen(options: dict[str, Any], tmp_path: Path) -> None:
    data = jpeg(**options)
    third, hole = len(data) // 3, len(data) // 5
    assert flaw(data[:third] + data[third + hole :], tmp_path), "a piece is lost"
    assert flaw(data[:third] + bytes(hole) + data[third + hole :], tmp_path), "a piece is zeros"
    assert flaw(data[:third] + data[third - hole : third] + data[third:], tmp_path), "a piece is there twice"


def test_padding_before_the_end_is_none(tmp_path: Path) -> None:
    data = jpeg()
    assert flaw(data[:-2] + bytes(3000) + data[-2:], tmp_path) == ""
    assert "coded bytes remain" in flaw(data[:-2] + data[1000:4000].replace(b"\xff", b"") + data[-2:], tmp_path)


# --- where the parts lie


def segment(kind: int, body: bytes) -> bytes:
    return bytes([0xFF, kind]) + (len(body) + 2).to_bytes(2, "big") + body


def frame(kind: int = 0xC0, parts: str = "abc") -> bytes:
    return segment(kind, bytes([8, 0, 8, 0, 8, len(parts)]) + b"".join(bytes([ord(p), 0x11, 0]) for p in parts))


def scan(parts: str = "abc", first: int = 0, last: int = 63, bits: int = 0, more: bytes = b"") -> bytes:
    """A scan's head; ``bits`` as they are stored: the bit before in the upper half, this one's in the lower."""
    listed = b"".join(bytes([ord(p), 0]) for p in parts)
    return segment(0xDA, bytes([len(parts)]) + listed + bytes([first, last, bits]) + more)


CODE = b"code \xff\x00 escaped \xff\xd3 restarted \xff\xd7."
START, END, DC = b"\xff\xd8", b"\xff\xd9", scan(last=0) + CODE
AC = [scan(part, 1) + CODE for part in "abc"]
TABLES = b"\xff\x01\xff\xd0" + b"".join(segment(kind, b"a table's 20 bytes..") for kind in (0xC4, 0xC8, 0xCC, 0xE1))
WHOLE = [
    (frame() + scan(), True, "one pass"),
    (frame(0xC1) + scan(), True, "one pass, extended"),
    (frame(parts="a") + scan("a"), True, "grey"),
    (TABLES + frame() + TABLES + scan(), True, "tables are no frames"),
    (frame() + scan("bc") + CODE + scan("a"), False, "two scans"),
    (frame() + scan("a"), False, "a scan of one part"),
    (frame(0xC2) + scan(), False, "several passes may follow"),
    (frame(0xC9) + scan(), False, "not Huffman coded"),
]


@pytest.mark.parametrize(("head", "whole", "reason"), WHOLE, ids=[w[2] for w in WHOLE])
def test_where_the_code_of_a_picture_lies(head: bytes, whole: bool, reason: str) -> None:
    head = START + head
    found = anatomy(head + CODE + END + START + frame() + scan() + CODE)
    assert found.ended and found.code == ((len(head), len(head + CODE)) if whole else (0, 0)), reason
    assert anatomy(head + CODE) == Anatomy((0, 0), False, True)
    assert anatomy(head) == Anatomy((0, 0), False, True)


@pytest.mark.parametrize(
    ("scans", "complete", "reason"),
    [
        ([DC, *AC], True, "all of it"),
        ([DC, *AC[:2]], False, "nothing fine of the last part"),
        ([DC], False, "nothing fine"),
        (AC, False, "nothing but what is fine"),
        ([DC, *AC[:2], scan("c", 1, 62)], False, "all but the last coefficient"),
        ([DC, *AC[:2], scan("c", 1, 30), scan("c", 31, 63)], True, "in two bands"),
        ([DC, *AC[:2], scan("c", 1, bits=0x01)], False, "all but its lowest bit"),
        ([DC, *AC[:2], scan("c", 1, bits=0x01), scan("c", 1, bits=0x10)], True, "and its lowest bit"),
        ([DC, *AC[:2], scan("c", 1, more=b"?")], False, "a head that is too long says nothing"),
        ([DC, *AC[:2], scan("cdefg", 1)], False, "nor one of too many parts"),
    ],
)
def test_whether_all_passes_are_there(scans: list[bytes], complete: bool, reason: str) -> None:
    found = anatomy(START + frame(0xC2) + b"".join(scans) + CODE + END)
    assert found == Anatomy((0, 0), True, complete), reason
    assert anatomy(START + frame(0xC0) + b"".join(scans) + CODE + END).complete, "of one pass nothing is said"


@pytest.mark.parametrize(
    ("left", "damaged"),
    [(bytes(range(255)), False), (bytes(range(256)), True), (bytes(5000), False), (b"\1" * 300 + b"\0", True)],
    ids=["a little", "too much", "padding", "almost padding"],
)
def test_what_is_left_behind_the_last_block(left: bytes, damaged: bool) -> None:
    parts = Anatomy((10, 20 + len(left)), True, True)
    said = f"damaged: it is complete, but {len(left)} coded bytes remain" if damaged else ""
    assert parts.flaw(bytes(20) + left + b"behind it", 20) == said


def test_a_decoder_is_given_half_of_what_is_left() -> None:
    """So that it shows where it had enough; a decoder that asks for a number of bytes gets them."""
    data = np.random.default_rng(0).bytes(9000)
    stream = Stream(data, Anatomy((100, 7984), True, True))
    sizes = [len(stream.read(ImageFile.MAXBLOCK)) for _ in range(8)]
    assert sizes == [4000, 2000, 1000, 500, 256, 244, 0, 0]
    stream.seek(0)
    assert stream.read(10) == data[:10] and stream.read() == data[10:7984] + bytes(16), "it may read ahead of the end"
    assert Stream(data, Anatomy((0, 0), True, True)).read() == data


@pytest.mark.parametrize(
    "hostile",
    [b"\xff" * 2_000_000 + b"\0", b"\xff\xda\0\x02" * 500_000, b"\xff\xda\0\x0c\x04" + bytes(9) * 100_000, b"\xff\xda"],
    ids=["fill", "scans", "parts", "end"],
)
def test_a_hostile_file_takes_no_time(hostile: bytes) -> None:
    head = jpeg(progressive=True)[:200]
    began = time.monotonic()
    assert not anatomy(head[:2] + hostile).ended
    assert not anatomy(head + hostile).ended
    assert time.monotonic() - began < 10


def test_no_sound_picture_of_a_real_set_is_called_damaged(shared: Path) -> None:
    pictures = sorted((shared / "data").rglob("*.jpg"))
    assert len(pictures) > 1000
    assert [p.name for p in pictures if inspect(p).flaw] == []
