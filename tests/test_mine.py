"""nanogfl mine: which pictures it ranks first, and what it leaves on disk."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import scene, write_models, write_scene

from nanogfl.detections import Detections
from nanogfl.errors import DataError, UsageError
from nanogfl.pictures import Picture, write_picture
from nanogfl.runtime.mine import doubt, mine, side_spread

Command = Callable[..., Any]


def found(scores: list[float], sigma: float | None = None) -> Detections:
    count = len(scores)
    boxes = np.tile(np.array([0, 0, 10, 20], np.float32), (count, 1))
    spread = None if sigma is None else np.full((count, 4), sigma, np.float32)
    return Detections(boxes, np.array(scores, np.float32), np.zeros(count, np.int64), ["x"], spread)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file with random weights that finds boxes."""
    folder = tmp_path_factory.mktemp("mine")
    write_models(folder, (96, 96))
    return folder / "model.onnx"


class Reads:
    """A predictor whose score is the brightness of the picture."""

    def __init__(self) -> None:
        self.names, self.input_size = ["x"], (64, 64)

    def predict(self, source: Picture, score: float = 0.3, *, iou: float = 0.6, max_boxes: int = 100) -> Detections:
        level = float(source.mean()) / 255
        return found([level] if level > score else [])


def test_doubt_is_entropy_in_bits() -> None:
    assert doubt(found([])) == 0
    assert doubt(found([0.5])) == pytest.approx(1)
    assert doubt(found([0.5, 0.5, 0.5])) == pytest.approx(3)
    assert doubt(found([0.25])) == pytest.approx(0.811278, abs=1e-5)
    assert doubt(found([0.9])) == pytest.approx(doubt(found([0.1])), abs=1e-6)
    assert doubt(found([1.0])) < 1e-4  # sure either way, and no logarithm of zero
    assert doubt(found([0.0])) < 1e-4


def test_spread_is_relative_to_the_box() -> None:
    assert side_spread(found([0.5])) is None
    assert side_spread(found([], 1.0)) == 0
    assert side_spread(found([0.5, 0.1], 2.0)) == pytest.approx((2 / 10 + 2 / 20) / 2)


def test_spread_is_a_mean_by_the_scores_and_finite() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    sigma = np.full((2, 4), 2, np.float32)
    two = Detections(boxes, np.array([0.6, 0.2], np.float32), np.array([0, 0]), ["x"], sigma)
    assert side_spread(two) == pytest.approx((0.6 * 2 / 10 + 0.2 * 2 / 1) / 0.8)  # no side is shorter than a pixel


def test_the_least_sure_come_first(tmp_path: Path) -> None:
    levels = {"dark": 10, "dim": 60, "half": 128, "bright": 230}
    for name, level in levels.items():
        write_picture(tmp_path / f"{name}.png", np.full((20, 20, 3), level, np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("not looked at")
    seen: list[None] = []
    ranked = mine(Reads(), str(tmp_path), progress=lambda: seen.append(None))
    assert [m.file.stem for m in ranked] == ["half", "dim", "bright", "dark"]
    assert len(seen) == 5, "the broken one counts, so that a bar comes to its end"
    assert [m.boxes for m in ranked] == [1, 0, 1, 0]
    assert ranked[0].to_json() == {"file": str(tmp_path / "half.png"), "doubt": 1.0, "boxes": 1, "spread": None}


def test_what_scores_a_tenth_is_doubted_and_what_scores_a_quarter_is_no_box(tmp_path: Path) -> None:
    for name, level in {"dark": 10, "tenth": 26, "quarter": 70}.items():
        write_picture(tmp_path / f"{name}.png", np.full((20, 20, 3), level, np.uint8))
    ranked = mine(Reads(), str(tmp_path))
    assert [(m.file.stem, m.boxes) for m in ranked] == [("quarter", 0), ("tenth", 0), ("dark", 0)]
    assert [m.doubt > 0.4 for m in ranked] == [True, True, False]


def test_the_first_ones_are_drawn_and_sort_by_their_rank(tmp_path: Path) -> None:
    for i in range(12):
        write_picture(tmp_path / "in" / f"{i}.png", np.full((20, 20, 3), 128 + 8 * i, np.uint8))
    mine(Reads(), str(tmp_path / "in"), draw=tmp_path / "out", top=10)
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == [f"{i + 1:02}_{i}.jpg" for i in range(10)]


def test_drawn_pictures_never_lie_among_those_that_are_read(tmp_path: Path) -> None:
    write_picture(tmp_path / "in" / "1_a.jpg", np.full((20, 20, 3), 128, np.uint8))
    before = (tmp_path / "in" / "1_a.jpg").read_bytes()
    with pytest.raises(UsageError, match=r"--draw .* contains input pictures"):
        mine(Reads(), str(tmp_path / "in"), draw=tmp_path / "other" / ".." / "in")
    assert [p.read_bytes() for p in (tmp_path / "in").iterdir()] == [before]


def test_nothing_to_rank_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        mine(Reads(), str(tmp_path))
    (tmp_path / "broken.jpg").rename(tmp_path / "clip.mp4")
    with pytest.raises(DataError, match="contains no pictures"):
        mine(Reads(), str(tmp_path))


def test_the_command_ranks_writes_and_draws(model: Path, tmp_path: Path, command: Command) -> None:
    for i in range(5):
        write_scene(tmp_path / "in" / f"{i}.png", seed=i)
    said = command(
        "mine", model, tmp_path / "in", "--top", 3, "--json", tmp_path / "a" / "next.json", "--draw", tmp_path / "b"
    )
    assert said.code == 0, said.err
    records = json.loads((tmp_path / "a" / "next.json").read_text())
    assert len(records) == 3
    doubts = [record["doubt"] for record in records]
    assert doubts == sorted(doubts, reverse=True)
    drawn = sorted(p.name for p in (tmp_path / "b").iterdir())
    assert drawn == [f"{rank}_{Path(record['file']).stem}.jpg" for rank, record in enumerate(records, 1)]
    assert "the 3 least certain of 5 pictures" in said.out


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("{model}", "nowhere"), 1, "nowhere"),
        (("{model}", "{empty}"), 1, "empty"),
        (("{model}", "{empty}", "--top", "0"), 2, "top"),
        (("nowhere.onnx", "{empty}"), 1, "nowhere.onnx"),
        (("{model}",), 2, "folder"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], code: int, word: str, model: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "empty").mkdir()
    values = {"{model}": model, "{empty}": tmp_path / "empty"}
    said = command("mine", *(values.get(a, a) for a in arguments))
    assert said.code == code
    last = said.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert word in last


def test_it_needs_no_torch(model: Path, tmp_path: Path) -> None:
    write_picture(tmp_path / "in" / "a.png", scene())
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['matplotlib'] = None\n"
        "from nanogfl.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "mine", str(model), str(tmp_path / "in")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a.png" in done.stdout


def uncertainty(checkpoint: Path, data: Path) -> str:
    """What docs/uncertainty.py says, whose figures docs/reports.md shows."""
    script = Path(__file__).parents[1] / "docs" / "uncertainty.py"
    given = [sys.executable, script, checkpoint, data, "all"]
    return subprocess.run(given, capture_output=True, text=True, check=True).stdout


def test_the_script_that_compares_rankings(learnt: Path, blocks: Path) -> None:
    said = uncertainty(learnt / "best.ckpt", blocks)
    table = said.split("\n\n")[0].splitlines()[1:]
    errors = {
        name: float(number) for name, number in re.findall(r"^(.+?) {2,}([\d.]+)", "\n".join(table), re.MULTILINE)
    }
    assert said.startswith("4 of 22 pictures") and len(errors) == 7
    assert max(errors.values()) == errors["the most there is"] > errors["at random"] > 0
    assert "sides, Spearman of sigma and error" in said and "within one calibrated sigma" in said


def test_the_factor_of_a_checkpoint_is_no_part_of_raw_sigma(learnt: Path, blocks: Path, tmp_path: Path) -> None:
    import torch

    content = torch.load(learnt / "best.ckpt", weights_only=True)
    said = []
    for factor in (1.0, 0.5):
        content["nanogfl"]["temperature"] = factor
        torch.save(content, tmp_path / "made.ckpt")
        said.append(uncertainty(tmp_path / "made.ckpt", blocks).split("\n\n")[1])
    assert said[0] == said[1] and "within one raw sigma" in said[0]
