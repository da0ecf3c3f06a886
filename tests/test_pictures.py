"""nanogfl.pictures: whatever lies on a disk comes in as upright uint8 BGR, or as one line that says why not."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nanogfl.errors import DataError
from nanogfl.pictures import SUFFIXES, as_picture, decode_picture, read_picture, write_picture

GREYS = (np.arange(24).reshape(4, 6) * 10).astype(np.uint8)
ORIENTATION = 274  # the EXIF tag
CORNERS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0), "white": (255, 255, 255)}


def quarters() -> NDArray[np.uint8]:
    """RGB [48, 64, 3] whose four quarters differ, so that no turn or mirror goes unseen."""
    image = np.empty((48, 64, 3), np.uint8)
    for i, value in enumerate(CORNERS.values()):
        image[24 * (i // 2) : 24 * (i // 2 + 1), 32 * (i % 2) : 32 * (i % 2 + 1)] = value
    return image


def corner_names(picture: NDArray[np.uint8]) -> list[str]:
    """Colour in the middle of the top left, top right, bottom left, bottom right quarter of a BGR picture."""
    height, width = picture.shape[:2]
    spots = [picture[height * y // 4, width * x // 4, ::-1].astype(int) for y in (1, 3) for x in (1, 3)]
    return [min(CORNERS, key=lambda name: np.abs(spot - CORNERS[name]).sum()) for spot in spots]


@pytest.mark.parametrize(
    ("orientation", "shape", "corners"),
    [
        (1, (48, 64), "blue green red white"),
        (2, (48, 64), "green blue white red"),
        (3, (48, 64), "white red green blue"),
        (4, (48, 64), "red white blue green"),
        (5, (64, 48), "blue red green white"),
        (6, (64, 48), "red blue white green"),
        (7, (64, 48), "white green red blue"),
        (8, (64, 48), "green white blue red"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientation_is_applied(
    tmp_path: Path, suffix: str, orientation: int, shape: tuple[int, int], corners: str
) -> None:
    image = Image.fromarray(quarters())
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"turned{suffix}"
    image.save(path, exif=exif, quality=95)
    picture = read_picture(path)
    assert picture.shape == (*shape, 3)
    assert corner_names(picture) == corners.split()
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))[..., ::-1]
    assert np.abs(picture.astype(int) - upright).max() <= 8, "the same as Pillow's upright picture"


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("L", "grey.png"), ("L", "grey.jpg"), ("LA", "grey_and_alpha.png"), ("P", "palette.png"), ("RGB", "plain.bmp"),
        ("RGB", "plain.tiff"), ("RGBA", "alpha.png"), ("CMYK", "print.jpg"), ("RGB", "plain.webp"),
    ],
)  # fmt: skip
def test_every_kind_of_picture_becomes_three_equal_channels_of_grey(tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(GREYS).convert(mode).save(path)
    picture = read_picture(path)
    assert picture.dtype == np.uint8
    lossy = path.suffix in (".jpg", ".webp")
    np.testing.assert_allclose(picture.astype(int), GREYS[..., None].repeat(3, 2), atol=5 if lossy else 0)
    assert path.suffix in SUFFIXES


def test_channels_are_blue_green_red(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (10, 20, 30)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").tolist() == [[[30, 20, 10]] * 3] * 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, suffix: str) -> None:
    deep = (GREYS.astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(tmp_path / f"deep{suffix}")
    np.testing.assert_array_equal(read_picture(tmp_path / f"deep{suffix}"), GREYS[..., None].repeat(3, 2))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("glass.png", {}),
        ("glass.webp", {"lossless": True, "exact": True}),
        ("glass.tif", {}),
        ("packed.tif", {"compression": "tiff_lzw"}),
        ("turned.tif", {"tiffinfo": {ORIENTATION: 6}}),
    ],
)
def test_transparency_is_dropped_and_not_blended(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    image = np.dstack([np.full((4, 6), level, np.uint8) for level in (200, 100, 50)] + [GREYS])
    Image.fromarray(image).save(tmp_path / name, **options)
    picture = read_picture(tmp_path / name)
    assert picture.shape == ((6, 4, 3) if name == "turned.tif" else (4, 6, 3))
    assert np.unique(picture.reshape(-1, 3), axis=0).tolist() == [[50, 100, 200]]


def test_a_palette_with_a_transparent_colour_keeps_its_colours(tmp_path: Path) -> None:
    colours = np.repeat([[[200, 100, 50], [10, 20, 30]]], 4, axis=0).astype(np.uint8)
    Image.fromarray(colours).quantize(4).save(tmp_path / "palette.png", transparency=0)
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.png"), colours[..., ::-1])


@pytest.mark.parametrize("cut", [5, 9, 60, 150])
def test_a_tiff_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.tif"
    Image.fromarray(np.dstack([quarters(), quarters()[..., 0]])).save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError) as error:
        read_picture(path)
    assert one_line(error, path)


def test_names_of_any_script_are_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "Bäckerei 图片 🍞.png"
    write_picture(path, quarters())
    np.testing.assert_array_equal(read_picture(path), quarters())


def one_line(error: pytest.ExceptionInfo[DataError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"no picture at all", "text"),
        (b"\xff\xd8\xff\xe0" + b"noise" * 20, "a JPEG's first bytes and nothing after them"),
        (b"\x89PNG\r\n\x1a\n", "a PNG's signature alone"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_picture(path)
    assert one_line(error, path).endswith("it is damaged or not a picture; replace or remove it"), reason


@pytest.mark.parametrize("name", ["missing.jpg", "folder"])
def test_what_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError) as error:
        read_picture(tmp_path / name)
    assert one_line(error, tmp_path / name).endswith("; check the path")


def test_an_impossible_name_is_a_data_error() -> None:
    with pytest.raises(DataError):
        read_picture("a\0b.jpg")


def test_a_picture_of_more_pixels_than_opencv_takes_is_a_data_error() -> None:
    header = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    huge = np.frombuffer(header[:16] + (2**20).to_bytes(4, "big") * 2 + header[24:], np.uint8)
    with pytest.raises(DataError, match=r"^cannot decode the picture huge\.png:"):
        decode_picture(huge, "huge.png")


def test_as_picture_takes_paths_and_arrays(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", quarters())
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), quarters()):
        np.testing.assert_array_equal(as_picture(source), quarters())


@pytest.mark.parametrize(
    ("array", "words", "reason"),
    [
        (np.zeros((2, 2, 3)), "float64 [2, 2, 3]", "not bytes"),
        (np.zeros((2, 2), np.uint8), "uint8 [2, 2]", "grey"),
        (np.zeros((2, 2, 4), np.uint8), "uint8 [2, 2, 4]", "alpha"),
        (np.zeros((0, 2, 3), np.uint8), "uint8 [0, 2, 3]", "no rows"),
        (np.zeros((1, 2, 2, 3), np.uint8), "uint8 [1, 2, 2, 3]", "a batch"),
    ],
)
def test_as_picture_refuses_other_arrays(array: NDArray[np.uint8], words: str, reason: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"not {words};")):
        as_picture(array)


def test_as_picture_refuses_what_is_no_array() -> None:
    """Pillow's pictures are RGB, and numpy would make an array of them."""
    image = Image.fromarray(quarters())
    assert np.asarray(image).shape == quarters().shape
    with pytest.raises(DataError, match=r"uint8 BGR \[H, W, 3\], not Image; for an RGB picture use numpy"):
        as_picture(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.bmp", "new/folders/a.png", "no_suffix"])
def test_write_makes_parents_and_leaves_nothing_else(tmp_path: Path, name: str) -> None:
    write_picture(tmp_path / name, quarters())
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / name]
    np.testing.assert_array_equal(read_picture(tmp_path / name), quarters())


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".jpeg"])
def test_a_jpeg_is_one_under_any_of_its_suffixes(tmp_path: Path, suffix: str) -> None:
    write_picture(tmp_path / "a.jpg", quarters())
    write_picture(tmp_path / f"b{suffix}", quarters())
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_a_write_that_fails_leaves_the_old_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_picture(path, quarters())
    (tmp_path / "a.png.partial").mkdir()  # nothing can be written under that name
    with pytest.raises(OSError, match=r"a\.png\.partial"):
        write_picture(path, 255 - quarters())
    np.testing.assert_array_equal(read_picture(path), quarters())


@pytest.mark.parametrize(
    ("name", "width"), [("a.webp", 17000), ("a.jpg", 70000)], ids=["webp holds 16383", "jpg holds 65500"]
)
def test_a_picture_too_large_for_its_format_is_a_data_error(tmp_path: Path, name: str, width: int) -> None:
    with pytest.raises(
        DataError, match=rf"cannot write the picture .*{name}: {width} x 10 px exceed the maximum of \."
    ):
        write_picture(tmp_path / name, np.zeros((10, width, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot write a picture as a\.xyz: unknown suffix"):
        write_picture(tmp_path / "a.xyz", quarters())
