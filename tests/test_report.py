"""nanogfl eval --report: what the page and the files hold, on drawn pictures with detections that are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.text import Text
from models import write_models

from nanogfl.data.table import Example, Table
from nanogfl.detections import Detections
from nanogfl.evaluation.coco import score
from nanogfl.evaluation.figures import confusion_cells, use_all_letters
from nanogfl.evaluation.gallery import draw_cut, window_around
from nanogfl.evaluation.report import write_report
from nanogfl.evaluation.study import Study
from nanogfl.pictures import write_picture

PLOTS = {"precision_recall", "scores", "classes", "sizes", "errors", "confusion", "sigma"}
NASTY = ("<script>alert(1)</script>", "$\\frac{1}{2}$ & 'x' \"y\"", "Blutplättchen 血小板\n" + "long " * 20)
A, B, NOWHERE = [10, 10, 60, 60], [80, 10, 140, 60], [20, 70, 70, 110]


def example(folder: Path, name: str, boxes: Sequence[Sequence[float]], labels: Sequence[int]) -> Example:
    rng = np.random.default_rng(len(name))
    picture = rng.integers(0, 255, (120, 160, 3), np.uint8)
    write_picture(folder / name, picture)
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    crowd = np.zeros(len(corners), bool)
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    return Example(folder / name, name, 160, 120, corners, np.array(labels, np.int64), crowd, areas)


def found(boxes: Sequence[Sequence[float]], labels: Sequence[int], names: Sequence[str]) -> Detections:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.4, len(corners), dtype=np.float32)
    return Detections(
        corners, scores, np.array(labels, np.int64), list(names), np.full((len(corners), 4), 2, np.float32)
    )


def study(folder: Path, names: Sequence[str] = ("cat", "dog", "emu"), pictures: int = 52) -> Study:
    """Each picture: one cat found, one dog found as emu, one cat where nothing is labelled."""
    examples = tuple(example(folder, f"{i:02d} & <b>.png", [A, B], [0, 1]) for i in range(pictures))
    shift = np.random.default_rng(0).normal(0, 2, (pictures, 4))
    detections = [found([B, NOWHERE, A + s], [2, 0, 0], names) for s in shift]
    table = Table(folder, "coco", tuple(names), examples)
    return Study("model & <set>", table, detections, score(table, detections))


class Page(HTMLParser):
    """Tags of a page, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    folder = tmp_path_factory.mktemp("report")
    made = study(folder / "set", NASTY)
    write_report(folder / "deep" / "report", made)
    return folder / "deep" / "report", made


def test_the_folder_holds_the_page_the_numbers_and_every_plot(written: tuple[Path, Study]) -> None:
    out, _ = written
    assert {p.name for p in out.iterdir()} == {"report.html", "report.json", *(f"{name}.png" for name in PLOTS)}
    for name in PLOTS:
        plot = cv2.imread(str(out / f"{name}.png"))
        assert plot is not None
        assert plot.shape[1] > 600
        assert plot.std() > 5  # not a blank sheet


def test_the_json_says_what_was_made(written: tuple[Path, Study]) -> None:
    out, made = written
    record = json.loads((out / "report.json").read_text())
    assert record["AP50"] == made.scores.numbers["AP50"]
    counts = {name: kind["count"] for name, kind in record["errors"].items()}
    assert counts["class"] == counts["background"] == 52
    assert counts["missed"] == 52
    assert record["confusion"]["matrix"] == [[52, 0, 0, 0], [0, 0, 52, 0], [0, 0, 0, 0], [52, 0, 0, 0]]
    kinds = [suspect["kind"] for suspect in record["suspects"]]
    assert (kinds.count("unlabelled"), kinds.count("other class"), kinds.count("never found")) == (52, 52, 0)
    assert record["suspects"][0]["box"] == NOWHERE
    assert record["score_threshold"] == pytest.approx(0.4)
    assert record["sigma"]["whole"]["sides"] == 208


def test_letters_of_other_scripts_come_from_fonts_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    file = next(font.fname for font in fontManager.ttflist if font.name == "DejaVu Sans")
    monkeypatch.setattr(
        fontManager, "ttflist", [FontEntry(fname=file, name=name) for name in ("Noto Sans CJK JP", "X")]
    )
    figure = confusion_cells(np.ones((3, 3), np.int64), ["安全帽", "Kopf"])
    use_all_letters(figure)
    used = {words.get_text(): words.get_fontfamily() for words in figure.findobj(Text)}
    assert used["安全帽"] == [*used["Kopf"], "Noto Sans CJK JP"]
    assert used["Kopf"] == used["Confusions"] == rcParams["font.family"]


def test_names_are_text_and_nothing_is_loaded(written: tuple[Path, Study]) -> None:
    page = Page(written[0] / "report.html")
    assert not {"script", "b", "frac", "iframe", "link"} & {tag for tag, _ in page.tags} - {"b"}
    bold = [attributes for tag, attributes in page.tags if tag == "b"]
    assert len(bold) == 7  # the tiles' own: no file name made one
    assert "<script>alert(1)</script>" in page.text
    assert "00 & <b>.png" in page.text
    assert "model & <set>" in page.text
    sources = [attributes.get("src") or "" for tag, attributes in page.tags if tag == "img"]
    assert all(source.startswith("data:image/") for source in sources)
    # plots, and a picture for each suspect that is shown and for the worst and the best
    assert len(sources) == len(PLOTS) + 18 + 18 + 6 + 6


def test_every_part_is_there(written: tuple[Path, Study]) -> None:
    text = Page(written[0] / "report.html").text
    for words in ("Precision and recall", "Classes", "Size", "Errors", "Confusions", "Sigma", "Suspected label errors"):
        assert words in text
    assert "Unlabelled: 52, 18 shown" in text
    assert "Never found: 0" in text
    assert text.count("F1 0.40: 1 right, 2 wrong, 1 missed") == 12
    assert "Rank correlation of sigma and error" in text


@pytest.mark.parametrize(
    ("boxes", "labels", "detections", "why"),
    [
        ([], [], [], "no boxes, no detections"),
        ([A], [0], [], "boxes, none found"),
        ([], [], [A], "a detection, no boxes"),
        ([A], [0], [A], "one of each"),
    ],
)
def test_a_report_of_almost_nothing(
    boxes: list[list[float]], labels: list[int], detections: list[list[float]], why: str, tmp_path: Path
) -> None:
    table = Table(tmp_path, "coco", ("cat",), (example(tmp_path, "a.png", boxes, labels),))
    given = [found(detections, [0] * len(detections), ("cat",))]
    page = Page(write_report(tmp_path / "report", Study("one", table, given, score(table, given))))
    assert "Not known: too few boxes were found." in page.text, why
    silent = [replace(one, side_sigma=None) for one in given]
    page = Page(write_report(tmp_path / "silent", Study("one", table, silent, score(table, silent))))
    assert "Not known: the model does not give it" in page.text
    assert json.loads((tmp_path / "report" / "report.json").read_text())["sigma"] is None


def test_windows_stay_in_the_picture() -> None:
    assert window_around([10, 10, 60, 60], (400, 400)) == (0, 0, 100, 100)
    assert window_around([350, 390, 400, 400], (400, 400)) == (300, 300, 400, 400)
    assert window_around([0, 0, 300, 20], (100, 320)) == (0, 0, 320, 100)
    assert window_around([5, 5, 6, 6], (40, 50)) == (0, 0, 50, 40)
    for box in ([0, 0, 0, 0], [399.9, 399.9, 400, 400]):
        x1, y1, x2, y2 = window_around(box, (400, 400))
        assert (x2 - x1, y2 - y1) == (96, 96)


def test_a_cut_shows_its_place(tmp_path: Path) -> None:
    one = example(tmp_path, "a.png", [A], [0])
    data = draw_cut(one, found([NOWHERE], [0], ("cat",)), NOWHERE)
    cut = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert cut is not None
    assert max(cut.shape) == 360


def test_the_command(blocks: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    write_models(tmp_path, (96, 96))
    out = tmp_path / "new" / "report"
    said = command("eval", tmp_path / "model.onnx", blocks, "--report", out, "--json", tmp_path / "scores.json")
    assert said.code == 0, said.err
    assert str(out / "report.html") in said.out
    record = json.loads((out / "report.json").read_text())
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {key: record[key] for key in scores} == scores
    assert "does not give it" in Page(out / "report.html").text  # this file has no sigma
    blocked = tmp_path / "file"
    blocked.write_text("")
    said = command("eval", tmp_path / "model.onnx", blocks, "--report", blocked)
    assert said.code == 2, "where an output cannot be written is usage, as for every other option"
    last = said.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert str(blocked) in last
