"""nanogfl predict: whatever a command names goes in; records, JSON and drawn pictures come out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from models import NAMES, scene, write_checkpoint, write_models, write_scene

import nanogfl
from nanogfl.errors import DataError, UsageError
from nanogfl.model.detector import Architecture
from nanogfl.pictures import read_picture, write_picture
from nanogfl.predictor import Predictor
from nanogfl.runtime.predict import Found, predict_sources

SCORE = 0.1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with best.ckpt, and model.onnx made of it."""
    folder = tmp_path_factory.mktemp("predict")
    write_models(folder, (64, 96))
    return folder


@pytest.fixture(scope="module")
def detector(models: Path) -> Predictor:
    return nanogfl.load(models / "model.onnx")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the test: two scenes and a note."""
    write_scene(tmp_path / "in" / "a.png", seed=1)
    write_scene(tmp_path / "in" / "b.jpg", 90, 200, seed=2)
    (tmp_path / "in" / "note.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def video(path: Path, count: int = 3) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    for i in range(count):
        writer.write(scene(64, 96, seed=i))
    writer.release()
    return path


def rotated(path: Path, orientation: int) -> Path:
    """A JPEG of a scene, 120 high and 160 wide, whose EXIF says how the camera was held."""
    data = cv2.imencode(".jpg", scene())[1].tobytes()
    tags = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation, 0, 0, 0, 0, 0, 0])
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(tags) + 2).to_bytes(2, "big") + tags + data[2:])
    return path


def run(command: Callable[..., Any], *arguments: object) -> list[dict[str, Any]]:
    """The JSON that ``nanogfl predict`` writes."""
    said = command("predict", *arguments, "--score", SCORE, "--json", "out/found.json")
    assert said.code == 0, said
    return json.loads(Path("out/found.json").read_text())


# --- the records ---


@pytest.mark.parametrize("model", ["best.ckpt", "model.onnx"])
def test_json_is_the_contract(models: Path, folder: Path, command: Callable[..., Any], model: str) -> None:
    (record,) = run(command, models / model, "in/a.png")
    assert list(record) == ["file", "width", "height", "detections"]
    assert (record["file"], record["width"], record["height"]) == ("in/a.png", 160, 120)
    expected = nanogfl.load(models / model).predict("in/a.png", SCORE)
    assert len(record["detections"]) == len(expected) >= 5
    for i, found in enumerate(record["detections"]):
        assert set(found) == {"class", "label", "score", "box"}
        assert found["class"] == NAMES[found["label"]] and found["label"] == expected.labels[i]
        assert found["score"] == pytest.approx(float(expected.scores[i]), abs=1e-5)
        assert found["box"] == pytest.approx(expected.boxes[i].tolist(), abs=1e-3)
    scores = [found["score"] for found in record["detections"]]
    assert scores == sorted(scores, reverse=True) and min(scores) > SCORE


def test_records_have_the_keys_of_the_contract_alone(models: Path, folder: Path, command: Callable[..., Any]) -> None:
    (record,) = run(command, models / "best.ckpt", "in/a.png")
    assert {tuple(sorted(found)) for found in record["detections"]} == {("box", "class", "label", "score")}


def test_sigma_is_in_the_records_where_it_is_asked_for(models: Path, folder: Path, command: Callable[..., Any]) -> None:
    (record,) = run(command, models / "best.ckpt", "in/a.png", "--sigma")
    expected = nanogfl.load(models / "best.ckpt").predict("in/a.png", SCORE).side_sigma
    assert expected is not None
    for found, sigma in zip(record["detections"], expected, strict=True):
        assert found["side_sigma"] == pytest.approx(sigma.tolist(), abs=1e-3) and min(found["side_sigma"]) > 0


def test_a_file_without_sigma_says_so(models: Path, folder: Path, command: Callable[..., Any]) -> None:
    said = command("predict", models / "model.onnx", "in", "--sigma", "--json", "found.json")
    assert said.code == 2 and said.out == "" and not Path("found.json").exists()
    assert said.err.startswith("error: --sigma: ") and said.err.count("\n") == 1


def test_a_checkpoint_without_distributions_has_no_sigma(folder: Path, command: Callable[..., Any]) -> None:
    dirac = write_checkpoint(folder / "dirac.ckpt", Architecture("s", len(NAMES), reg_max=0))
    said = command("predict", dirac, "in", "--sigma", "--score", "0")
    assert (said.code, said.out) == (2, "") and "(a detector with model.sides=dirac has none)" in said.err
    assert command("predict", dirac, "in", "--score", "0").code == 0


@pytest.mark.parametrize("score", ["7", "-0.1", "nan", "inf"])
def test_a_score_is_from_0_to_1(models: Path, folder: Path, command: Callable[..., Any], score: str) -> None:
    for model, verb, source in (
        ("model.onnx", "predict", "in"),
        ("best.ckpt", "predict", "in"),
        ("best.ckpt", "eval", "no"),
    ):
        said = command(verb, models / model, source, "--score", score)
        assert said.code == 2 and said.out == "" and "score" in said.err and said.err.count("\n") == 1
    with pytest.raises(UsageError, match="from 0 to 1"):
        nanogfl.load(models / "best.ckpt").predict("in/a.png", float(score))


def test_checkpoint_and_file_find_the_same(models: Path, folder: Path, command: Callable[..., Any]) -> None:
    torch, onnx = (run(command, models / m, "in") for m in ("best.ckpt", "model.onnx"))
    assert [r["file"] for r in torch] == [r["file"] for r in onnx] == ["in/a.png", "in/b.jpg"]
    for a, b in zip(torch, onnx, strict=True):
        assert len(a["detections"]) == len(b["detections"]) >= 5
        for first, second in zip(a["detections"], b["detections"], strict=True):
            assert first["class"] == second["class"]
            assert first["score"] == pytest.approx(second["score"], abs=1e-4)
            assert first["box"] == pytest.approx(second["box"], abs=0.02)


@pytest.mark.parametrize(
    ("sources", "files", "reason"),
    [
        (["in/a.png"], ["in/a.png"], "a picture"),
        (["in"], ["in/a.png", "in/b.jpg"], "a folder; the note is no picture"),
        (["in/*.jpg"], ["in/b.jpg"], "a glob that the shell left alone"),
        (["in/b.jpg", "in"], ["in/b.jpg", "in/a.png"], "in the order given, each once"),
    ],
)
def test_sources(detector: Predictor, folder: Path, sources: list[str], files: list[str], reason: str) -> None:
    assert [r["file"] for r in predict_sources(detector, sources)] == files, reason


def test_a_video_is_a_record_a_frame(detector: Predictor, folder: Path) -> None:
    video(folder / "clip.mp4")
    records = predict_sources(detector, ["clip.mp4", "in/a.png"], score=SCORE)
    assert [r["file"] for r in records] == ["clip.mp4"] * 3 + ["in/a.png"]
    assert [r.get("frame") for r in records] == [0, 1, 2, None]
    assert [r["time"] for r in records[:3]] == pytest.approx([0, 0.1, 0.2], abs=2e-3)
    assert {(r["width"], r["height"]) for r in records[:3]} == {(96, 64)} and "time" not in records[3]
    assert all(r["detections"] for r in records)


@pytest.mark.parametrize(
    ("orientation", "turns", "size"),
    [(1, 0, (160, 120)), (3, 2, (160, 120)), (6, 3, (120, 160)), (8, 1, (120, 160))],
)
def test_a_turned_jpeg_is_found_in_upright(
    detector: Predictor, folder: Path, orientation: int, turns: int, size: tuple[int, int]
) -> None:
    upright = np.rot90(read_picture(rotated(folder / "flat.jpg", 1)), turns).copy()
    path = rotated(folder / "phone.jpg", orientation)
    (record,) = predict_sources(detector, [str(path)], score=SCORE, draw=folder / "drawn")
    assert (record["width"], record["height"]) == size
    expected = detector.predict(upright, SCORE)
    assert len(expected) >= 3
    assert [d["box"] for d in record["detections"]] == [pytest.approx(b.tolist(), abs=1e-3) for b in expected.boxes]
    assert read_picture(folder / "drawn" / "phone.jpg").shape[:2] == size[::-1], "not turned a second time"


@pytest.mark.parametrize("score", [0.02, 0.2, 0.999])
def test_score_is_the_lowest(models: Path, folder: Path, score: float) -> None:
    for name in ("best.ckpt", "model.onnx"):
        (record,) = predict_sources(nanogfl.load(models / name), ["in/a.png"], score=score)
        scores = [found["score"] for found in record["detections"]]
        assert all(s > score - 1e-5 for s in scores) and bool(scores) == (score < 0.9)
        assert score != 0.02 or min(scores) < 0.05, "lower than the default in the file"


# --- classes ---


@pytest.mark.parametrize("chosen", [["red"], ["blue", "green"], list(NAMES)])
def test_only_some_classes(detector: Predictor, folder: Path, chosen: list[str]) -> None:
    everything = predict_sources(detector, ["in"], score=SCORE)
    some = predict_sources(detector, ["in"], score=SCORE, classes=chosen)
    for all_of, part in zip(everything, some, strict=True):
        assert part["detections"] == [d for d in all_of["detections"] if d["class"] in chosen]
    assert {d["class"] for r in some for d in r["detections"]} == set(chosen)


def test_an_unknown_class_is_said_before_anything_is_read(detector: Predictor) -> None:
    with pytest.raises(UsageError, match=r"--classes: the model has no class 'gren' \(did you mean green\?\)"):
        predict_sources(detector, ["nowhere.jpg"], classes=["red", "gren"])


def test_classes_on_the_command_line(models: Path, folder: Path, command: Callable[..., Any]) -> None:
    records = run(command, models / "model.onnx", "in", "--classes", " red, blue ,")
    assert {d["class"] for r in records for d in r["detections"]} == {"red", "blue"}
    none = command("predict", models / "model.onnx", "in", "--classes", ",")
    assert none.code == 2 and none.err.startswith("error: --classes ',' contains no class; specify some")
    said = command("predict", models / "model.onnx", "in", "--classes", "bleu")
    assert said.code == 2 and said.out == ""
    assert said.err == "error: --classes: the model has no class 'bleu' (did you mean blue?)\n"


# --- drawn pictures ---


def test_drawn_pictures(models: Path, folder: Path, command: Callable[..., Any]) -> None:
    write_scene(folder / "other" / "a.png", 50, 60)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = command("predict", models / "model.onnx", "in", "other/a.png", "--score", SCORE, "--draw", "deep/drawn")
    assert said.code == 0 and said.out.endswith("-> deep/drawn\n")
    drawn = sorted(Path("deep/drawn").iterdir())
    assert [p.name for p in drawn] == ["a.png", "a_1.png", "b.jpg"]
    for path, source in zip(drawn, ("in/a.png", "other/a.png", "in/b.jpg"), strict=True):
        picture, original = read_picture(path), read_picture(source)
        assert picture.shape == original.shape
        assert (np.abs(picture.astype(int) - original).max(axis=2) > 60).sum() > 50, "boxes are drawn"
    assert {path: path.read_bytes() for path in before} == before, "the pictures themselves stay"


def test_sources_are_never_drawn_over(models: Path, folder: Path, command: Callable[..., Any]) -> None:
    video(folder / "in/clip.mp4")
    before = {p: p.read_bytes() for p in (folder / "in").iterdir()}
    for source in ("in", "in/b.jpg", "in/clip.mp4"):
        said = command("predict", models / "model.onnx", source, "--draw", "other/../in")
        assert (said.code, len(said.err.splitlines())) == (2, 1) and "would overwrite the input in/" in said.err
    assert {p: p.read_bytes() for p in (folder / "in").iterdir()} == before


def test_no_two_files_are_drawn_into_one(detector: Predictor, folder: Path) -> None:
    """The number that a name gets may be in the name of another file."""
    for name in ("d1/a.jpg", "d2/a.jpg", "d1/a_1.jpg", "d3/a.jpg"):
        write_scene(folder / name)
    predict_sources(detector, ["d1/a.jpg", "d2/a.jpg", "d1/a_1.jpg", "d3/a.jpg"], draw=Path("drawn"))
    assert sorted(p.name for p in Path("drawn").iterdir()) == ["a.jpg", "a_1.jpg", "a_1_1.jpg", "a_2.jpg"]


def test_no_two_files_are_drawn_into_one_on_a_disk_without_case(detector: Predictor, folder: Path) -> None:
    for name in ("e1/b.jpg", "e2/B.JPG", "e3/B_1.jpg"):
        write_scene(folder / name)
    predict_sources(detector, ["e1/b.jpg", "e2/B.JPG", "e3/B_1.jpg"], draw=Path("caseless"))
    assert sorted(p.name for p in Path("caseless").iterdir()) == ["B_1.jpg", "B_1_1.jpg", "b.jpg"]


def test_a_drawn_video(detector: Predictor, folder: Path) -> None:
    video(folder / "clip.mp4")
    predict_sources(detector, ["clip.mp4"], score=SCORE, draw=Path("drawn"))
    assert [p.name for p in Path("drawn").iterdir()] == ["clip.mp4"]
    capture = cv2.VideoCapture("drawn/clip.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert [capture.read()[0] for _ in range(4)] == [True] * 3 + [False]


# --- what cannot be read ---


def test_a_broken_picture_among_good_ones_is_left_out(models: Path, folder: Path, command: Callable[..., Any]) -> None:
    (folder / "in" / "b0.jpg").write_bytes(b"\xff\xd8 no picture")
    said = command("predict", models / "model.onnx", "in", "--json", "found.json")
    assert said.code == 0
    (line,) = said.err.splitlines()
    assert line.startswith("warning: skipped: cannot decode the picture in/b0.jpg: ")
    assert [r["file"] for r in json.loads(Path("found.json").read_text())] == ["in/a.png", "in/b.jpg"]


def test_a_broken_picture_alone_is_an_error(models: Path, folder: Path, command: Callable[..., Any]) -> None:
    Path("bad.jpg").write_bytes(b"\xff\xd8 no picture")
    said = command("predict", models / "model.onnx", "bad.jpg", "--json", "found.json", "--draw", "drawn")
    assert said.code == 1 and said.out == ""
    assert said.err.startswith("error: cannot decode the picture bad.jpg: ") and said.err.count("\n") == 1
    assert not Path("found.json").exists() and not Path("drawn").exists()


def test_several_broken_pictures_are_one_error(detector: Predictor, folder: Path) -> None:
    for name in ("x.jpg", "y.jpg"):
        Path(name).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of 2 files could be read; first: cannot decode the picture x\.jpg"):
        predict_sources(detector, ["x.jpg", "y.jpg"])


@pytest.mark.parametrize("source", ["nowhere.jpg", "in/*.tif", "in/c.png"])
def test_a_missing_source_is_an_error(detector: Predictor, folder: Path, source: str) -> None:
    with pytest.raises(DataError):
        predict_sources(detector, ["in/a.png", source])


def test_a_video_that_is_none_is_left_out_with_a_word(
    detector: Predictor, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path("clip.mp4").write_bytes(b"nothing of the kind" * 50)
    with caplog.at_level(logging.WARNING, logger="nanogfl"):
        records = predict_sources(detector, ["clip.mp4", "in/a.png"], draw=Path("drawn"))
    assert [r["file"] for r in records] == ["in/a.png"]
    assert "skipped: cannot open the video clip.mp4" in caplog.text
    assert [p.name for p in Path("drawn").iterdir()] == ["a.png"]


def test_a_video_that_cannot_be_drawn_is_an_error(
    models: Path, folder: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    video(Path("clip.mp4"))
    monkeypatch.setattr("nanogfl.runtime.video._plays", lambda _path: False)  # a full disk
    said = command("predict", models / "model.onnx", "clip.mp4", "--draw", "drawn", "--json", "found.json")
    assert said.code == 1 and said.out == "" and said.err.startswith("error: the video drawn/clip.mp4 could not be fin")
    assert not Path("found.json").exists() and not any(Path("drawn").iterdir())


# --- what is said on the way ---


def test_progress_is_called_for_each_frame(detector: Predictor, folder: Path) -> None:
    seen: list[Found] = []
    records = predict_sources(detector, ["in"], score=SCORE, progress=seen.append)
    assert [one.record for one in seen] == records
    assert [len(one.detections) for one in seen] == [len(r["detections"]) for r in records]


def test_the_counts_that_are_printed(models: Path, folder: Path, command: Callable[..., Any]) -> None:
    (record,) = run(command, models / "model.onnx", "in/a.png")
    said = command("predict", models / "model.onnx", "in/a.png", "--score", SCORE)
    line, total = said.out.splitlines()
    names = [d["class"] for d in record["detections"]]
    assert line == "in/a.png: " + ", ".join(f"{names.count(n)} {n}" for n in dict.fromkeys(names))
    assert total == f"{len(names)} {'box' if len(names) == 1 else 'boxes'} in 1 picture"
    write_picture(Path("blank.png"), np.zeros((8, 8, 3), np.uint8))
    blank = command("predict", models / "model.onnx", "blank.png", "--score", "0.99")
    assert blank.out == "blank.png: nothing\n0 boxes in 1 picture\n"
