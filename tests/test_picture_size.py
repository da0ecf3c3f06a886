"""Header sizes of pictures: equal to what OpenCV decodes, and nothing for what is no picture or cut short."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from nanogfl.runtime.picture_size import PNG, picture_size

SHAPES = [(1, 1), (7, 300), (300, 7), (97, 131)]
WAYS = [
    (".png", []),
    (".jpg", []),
    (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
    (".bmp", []),
    (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
    (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),  # lossless
]


def encoded(suffix: str, shape: tuple[int, int], options: list[int], channels: int = 3) -> bytes:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, channels), np.uint8)
    return cv2.imencode(suffix, picture, options)[1].tobytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("suffix", "options"), WAYS)
def test_the_size_is_what_decoding_gives(suffix: str, options: list[int], shape: tuple[int, int]) -> None:
    assert picture_size(encoded(suffix, shape, options)) == shape


def test_webp_with_transparency_has_another_header() -> None:
    data = encoded(".webp", (40, 56), [cv2.IMWRITE_WEBP_QUALITY, 80], channels=4)
    assert data[12:16] in (b"VP8X", b"VP8L") and picture_size(data) == (40, 56)


def test_jpeg_segments_that_look_like_frames_are_stepped_over() -> None:
    data = encoded(".jpg", (30, 50), [])
    lie = b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03"
    hidden = b"\xff\xe1" + struct.pack(">H", len(lie) + 2) + lie
    assert picture_size(data[:2] + hidden + data[2:]) == (30, 50)
    assert picture_size(data[:2] + b"\xff\xff\xff" + data[3:]) == (30, 50), "fill bytes before a marker"


def test_a_stuffed_zero_hides_no_frame() -> None:
    """FF 00 is data to a decoder: read as a marker with a length, it would step over the true frame to a decoy."""
    data = encoded(".jpg", (30, 50), [])
    decoy = b"\xff\xc0\x00\x11\x08\x00\x08\x00\x08\x03"
    frame = data.index(b"\xff\xc0")
    length = struct.pack(">H", len(data) - frame + 2)
    bomb = data[:frame] + b"\xff\x00" + length + data[frame:] + decoy
    decoded = cv2.imdecode(np.frombuffer(bomb, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None and decoded.shape[:2] == picture_size(bomb) == (30, 50)


def test_a_bmp_may_stand_on_its_head() -> None:
    data = bytearray(encoded(".bmp", (30, 50), []))
    data[22:26] = struct.pack("<i", -30)
    assert picture_size(bytes(data)) == (30, 50)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"GIF89a" + b"\0" * 40,
        b"II*\0" + b"\0" * 40,
        b"<svg/>",
        b"RIFF1234WEBPXXXX",
        PNG + b"\0\0\0\x08tEXt" + b"\0\0\0\x09" * 3,  # whose header is not where it has to be
    ],
)
def test_no_picture_no_size(data: bytes) -> None:
    assert picture_size(data) is None


@pytest.mark.parametrize(("suffix", "options"), WAYS)
def test_cut_short_at_any_byte_never_fails(suffix: str, options: list[int]) -> None:
    data = encoded(suffix, (97, 131), options)
    for length in range(min(len(data), 700)):
        assert picture_size(data[:length]) in (None, (97, 131))


def test_noise_behind_a_good_beginning_never_fails() -> None:
    rng = np.random.default_rng(1)
    for start in (PNG, b"\xff\xd8", b"\xff\xd8\xff", b"RIFF0000WEBPVP8X", b"RIFF0000WEBPVP8 ", b"BM"):
        for _ in range(200):
            size = picture_size(start + rng.bytes(60))
            assert size is None or min(size) > 0


def test_a_picture_without_area_has_no_size() -> None:
    header = struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert picture_size(PNG + chunk) is None


@pytest.mark.parametrize("marker", [0xC4, 0xC8, 0xCC])
def test_jpeg_markers_among_those_of_frames_that_are_none(marker: int) -> None:
    data = encoded(".jpg", (30, 50), [])
    tables = struct.pack(">BBH", 0xFF, marker, 10) + b"\x08\xff\xff\xff\xff\x03\0\0"
    assert picture_size(data[:2] + tables + data[2:]) == (30, 50)


def test_a_jpeg_of_markers_alone_is_given_up() -> None:
    data = encoded(".jpg", (30, 50), [])
    assert picture_size(data[:2] + 9_000 * b"\xff\xd0" + data[2:]) == (30, 50)
    assert picture_size(data[:2] + 11_000 * b"\xff\xd0" + data[2:]) is None


@pytest.mark.parametrize(
    ("chunk", "size"),
    [
        (b"VP8X\x0a\0\0\0\x10\0\0\0" + b"\x01\0\x02" + b"\x03\0\x04", (0x40004, 0x20002)),  # 24 bits each
        (b"VP8L\x0a\0\0\0\x2f" + struct.pack("<I", 1 << 28 | 0x3FFF << 14 | 6), (0x4000, 7)),  # then that alpha is used
        (
            b"VP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 0x4007, 0xC009),
            (9, 7),
        ),  # how to scale, then 14 bits
    ],
)
def test_bits_of_webp_that_are_and_are_not_of_its_size(chunk: bytes, size: tuple[int, int]) -> None:
    assert picture_size(b"RIFF\x20\0\0\0WEBP" + chunk) == size


def test_a_bmp_of_os2_has_shorter_sides() -> None:
    assert picture_size(b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 50, 40_000, 1, 24)) == (40_000, 50)
