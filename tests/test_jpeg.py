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
from PIL import Image

from nanogfl.doctor.jpeg import anatomy
from nanogfl.doctor.look import look_at

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
    return look_at(folder / "a.jpg").flaw


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
    assert "more bytes are coded" in flaw(data[:-2] + data[1000:4000].replace(b"\xff", b"") + data[-2:], tmp_path)


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
    assert [p.name for p in pictures if look_at(p).flaw] == []
