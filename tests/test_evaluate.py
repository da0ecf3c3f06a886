"""nanogfl.evaluate: classes by name, splits and the cut, the JSON, and one score for checkpoint and ONNX."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import COLOURS, Drawn, block_picture, write_coco

import nanogfl
from nanogfl.data.readers import read_table
from nanogfl.data.splits import select
from nanogfl.data.table import Table
from nanogfl.deploy.build import Form
from nanogfl.errors import DataError, NanogflError, UsageError
from nanogfl.evaluation.coco import score
from nanogfl.evaluation.run import EVALUATION, in_model_order, predict_all
from nanogfl.runtime.session import OnnxDetector

TWELVE = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")
Command = Callable[..., Any]


def drawn(count: int, seed: int = 3) -> list[Drawn]:
    rng = np.random.default_rng(seed)
    return [block_picture(rng) for _ in range(count)]


def renamed(pictures: list[Drawn], order: list[int]) -> list[Drawn]:
    """The same pictures in a set whose class i was the old class order[i]."""
    return [p._replace(labels=[order.index(label) for label in p.labels]) for p in pictures]


@pytest.fixture(scope="module")
def numbers(learnt: Path, blocks: Path) -> dict[str, float | None]:
    """The learnt checkpoint's scores on the pictures it was validated on."""
    return nanogfl.evaluate(learnt / "best.ckpt", blocks).numbers


# --- classes by name


def test_class_order_makes_no_difference(
    learnt: Path, blocks: Path, tmp_path: Path, numbers: dict[str, float | None]
) -> None:
    table = select(read_table(blocks), "val")
    order = [2, 0, 1]
    names = tuple(table.names[i] for i in order)
    other = replace(
        table,
        names=names,
        examples=tuple(replace(e, labels=np.array([order.index(v) for v in e.labels])) for e in table.examples),
    )
    scores = nanogfl.evaluate(learnt / "best.ckpt", other)
    assert scores.numbers == pytest.approx(numbers, abs=1e-9)
    assert list(scores.per_class) == list(COLOURS)  # the model's order
    on_disk = write_coco(tmp_path / "set", {"val": renamed(drawn(5), order)}, names=names)
    plain = write_coco(tmp_path / "plain", {"val": drawn(5)})
    a, b = (nanogfl.evaluate(learnt / "best.ckpt", data) for data in (on_disk, plain))
    assert a.to_json() == b.to_json()


def test_no_class_in_common_is_an_error(learnt: Path, tmp_path: Path, command: Command) -> None:
    data = write_coco(tmp_path / "set", {"val": drawn(2)}, names=("cat", "dog", "emu"))
    said = command("eval", learnt / "best.ckpt", data)
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("error: no class in common")
    assert "cat" in said.err
    assert "red" in said.err


def test_classes_unknown_to_the_model_are_left_out(
    learnt: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    three = drawn(5)
    extra = [p._replace(boxes=[*p.boxes, [0, 0, 9, 9]], labels=[*p.labels, 3]) for p in three]
    data = write_coco(tmp_path / "extra", {"val": extra}, names=(*COLOURS, "yeti"))
    plain = write_coco(tmp_path / "plain", {"val": three})
    with caplog.at_level(logging.WARNING, logger="nanogfl"):
        a = nanogfl.evaluate(learnt / "best.ckpt", data)
    assert "yeti" in caplog.text
    assert a.to_json() == nanogfl.evaluate(learnt / "best.ckpt", plain).to_json()


def test_classes_that_the_set_lacks_have_no_score(learnt: Path, tmp_path: Path) -> None:
    reds = [block_picture(np.random.default_rng(i), classes=(0,)) for i in range(4)]
    scores = nanogfl.evaluate(learnt / "best.ckpt", write_coco(tmp_path / "set", {"val": reds}, names=("red",)))
    assert scores.per_class["blue"].AP is None
    assert scores.per_class["red"].boxes == 8
    assert scores.numbers["AP"] == pytest.approx(scores.per_class["red"].AP)


def test_in_model_order_maps_labels() -> None:
    table = Table(Path("set"), "coco", ("b", "x", "a"), ())
    assert in_model_order(table, ("a", "b", "c")).names == ("a", "b", "c")
    with pytest.raises(DataError, match=r"set has b, x, a; the model has q"):
        in_model_order(table, ("q",))


# --- which pictures


def test_test_is_taken_before_val_before_everything(learnt: Path, tmp_path: Path) -> None:
    pictures = drawn(9)
    parts = {"train": pictures[:4], "val": pictures[4:7], "test": pictures[7:]}
    all_three = write_coco(tmp_path / "three", parts)
    no_test = write_coco(tmp_path / "two", {k: parts[k] for k in ("train", "val")})
    train_only = write_coco(tmp_path / "one", {"train": parts["train"]})
    assert [nanogfl.evaluate(learnt / "best.ckpt", d).images for d in (all_three, no_test, train_only)] == [2, 3, 4]
    split = {s: nanogfl.evaluate(learnt / "best.ckpt", all_three, split=s).images for s in (*parts, "all", "valid")}
    assert split == {"train": 4, "val": 3, "test": 2, "all": 9, "valid": 3}


def test_the_parts_of_the_cut_are_named_too(learnt: Path, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "set", {"": drawn(12)})
    table = read_table(data)
    assert not table.has_splits
    images = {s: nanogfl.evaluate(learnt / "best.ckpt", data, split=s).images for s in ("train", "val", "test")}
    assert images == {s: len(select(table, s)) for s in images}
    assert sum(images.values()) == 12
    assert min(images.values()) >= 1
    assert nanogfl.evaluate(learnt / "best.ckpt", data).images == 12


@pytest.mark.parametrize(("split", "error"), [("validate", UsageError), ("test", DataError)])
def test_a_split_that_is_not_there(split: str, error: type[NanogflError], learnt: Path, blocks: Path) -> None:
    with pytest.raises(error, match=split):
        nanogfl.evaluate(learnt / "best.ckpt", blocks, split=split)


# --- one score, whoever computes it


def test_checkpoint_and_onnx_agree(learnt_onnx: Path, blocks: Path, numbers: dict[str, float | None]) -> None:
    assert (numbers["AP50"] or 0) > 0.3  # zero would agree with everything
    other = nanogfl.evaluate(learnt_onnx, blocks).numbers
    for key in TWELVE:
        assert other[key] == pytest.approx(numbers[key], abs=1e-3), key


def test_it_is_the_scorer_on_single_predictions(learnt: Path, blocks: Path, numbers: dict[str, float | None]) -> None:
    detector = nanogfl.load(learnt / "best.ckpt")
    table = select(read_table(blocks), "val")
    singles = [detector.predict(e.path, 0.05) for e in table.examples]
    batched = list(predict_all(detector, table.examples, EVALUATION))
    for one, other in zip(singles, batched, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_array_equal(one.labels, other.labels)
    assert score(table, singles).numbers == pytest.approx(numbers, abs=1e-6)


def test_a_file_is_given_as_many_pictures_as_it_takes(
    learnt: Path, blocks: Path, numbers: dict[str, float | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nanogfl.export(learnt / "best.ckpt", out=tmp_path / "four.onnx", form=Form("tensor", batch=4)).path
    asked: list[int] = []
    run = OnnxDetector.run
    monkeypatch.setattr(
        OnnxDetector, "run", lambda self, image, limits: asked.append(len(image)) or run(self, image, limits)
    )
    assert nanogfl.evaluate(path, blocks).numbers == pytest.approx(numbers, abs=1e-3)
    assert asked == [4, 4]  # six pictures


def test_a_higher_threshold_finds_no_more(learnt: Path, blocks: Path, numbers: dict[str, float | None]) -> None:
    strict = nanogfl.evaluate(learnt / "best.ckpt", blocks, score_threshold=0.5).numbers
    nothing = nanogfl.evaluate(learnt / "best.ckpt", blocks, score_threshold=0.999).numbers
    assert (strict["AR100"] or 0) <= (numbers["AR100"] or 0)
    assert nothing["AP"] == 0


def test_another_input_size_is_another_score(learnt: Path, blocks: Path, numbers: dict[str, float | None]) -> None:
    other = nanogfl.evaluate(learnt / "best.ckpt", blocks, input="64x128")
    assert other.images == 6
    assert other.numbers != numbers


# --- the command


def test_the_json_has_the_contracts_keys(
    learnt: Path, blocks: Path, tmp_path: Path, command: Command, numbers: dict[str, float | None]
) -> None:
    file = tmp_path / "made" / "for" / "it" / "scores.json"
    said = command("eval", learnt / "best.ckpt", blocks, "--split", "val", "--json", file)
    assert said.code == 0, said.err
    content = json.loads(file.read_text())
    assert list(content) == ["images", *TWELVE, "per_class"]
    assert content["images"] == 6
    assert {k: content[k] for k in TWELVE} == pytest.approx(numbers, abs=1e-9)
    assert list(content["per_class"]) == list(COLOURS)
    assert all(set(entry) == {"AP", "AP50", "boxes"} for entry in content["per_class"].values())
    assert sum(entry["boxes"] for entry in content["per_class"].values()) == 12
    assert content["AP_L"] is None  # no block is larger than 96 x 96
    assert f"{content['AP50']:.3f}"[1:] in said.out
    assert not list(file.parent.glob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("nowhere.ckpt", "{data}"), None, "nowhere.ckpt"),
        (("{model}", "nowhere"), 1, "nowhere"),
        (("{model}", "{data}", "--split", "dev"), 2, "dev"),
        (("{model}", "{data}", "--input", "33"), 2, "33"),
        (("{onnx}", "{data}", "--input", "128"), None, "128"),
        (("{model}",), 2, "argument 'data'"),
    ],
    ids=["no such model", "no such set", "no such split", "no such size", "the size of an ONNX is fixed", "no set"],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...],
    code: int | None,
    word: str,
    learnt: Path,
    learnt_onnx: Path,
    blocks: Path,
    command: Command,
) -> None:
    values = {"{model}": learnt / "best.ckpt", "{data}": blocks, "{onnx}": learnt_onnx}
    said = command("eval", *(values.get(a, a) for a in arguments))
    assert said.code == code if code else said.code in (1, 2)
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert word in errors[0]
    assert "Traceback" not in said.err
