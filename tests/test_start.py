"""nanogfl.training.start: what a run begins with - fresh, our own, or NanoDet's weights; and what freezing keeps."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_checkpoint
from oracles.layouts import to_nanodet, torchvision_state
from runs import Drawn, block_picture, checkpoint, quick, weights, write_coco

import nanogfl
from nanogfl.errors import DataError, ModelError, NanogflError, RecipeError, UsageError
from nanogfl.model.detector import WIDTHS, Architecture
from nanogfl.model.guidance import FullGuidance, LightGuidance
from nanogfl.model.weights import read_weights
from nanogfl.pictures import write_picture
from nanogfl.recipe import Recipe, load_recipe
from nanogfl.training.start import complete_model, start

MIXED = ("green", "yellow", "red")  # two of red, green, blue, in another order and place


def recipe(*assignments: str, init: object = "none") -> Recipe:
    return load_recipe(None, assignments, {"init": str(init)})


# --- from nothing


def test_from_nothing_it_is_size_m_at_320() -> None:
    begin = start(recipe(), ("a", "b"))
    assert begin.card.architecture.size == "m"
    assert begin.card.input_size == (320, 320)
    assert begin.card.resize == "stretch"
    assert begin.card.names == ("a", "b")
    assert begin.guidance is None


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["input.size=96x160"], (96, 160)),  # height first
        (["input.size=64"], (64, 64)),
        (["input.size=[64, 128]"], None),  # a list is no size in a recipe
        (["input.size=50"], None),  # no multiple of 32
        (["input.size=32"], None),  # too small
    ],
)
def test_the_input_size_is_taken_or_refused(assignments: list[str], expected: tuple[int, int] | None) -> None:
    if expected is None:
        with pytest.raises(UsageError):
            start(recipe("model.size=s", *assignments), ("a",))
    else:
        assert start(recipe("model.size=s", *assignments), ("a",)).card.input_size == expected


# --- from our own checkpoint


def test_class_rows_go_by_name(learnt: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO, logger="nanogfl"):
        begin = start(recipe(init=learnt / "best.ckpt"), MIXED)
    old, new = weights(learnt / "best.ckpt"), begin.detector.state_dict()
    for level in range(4):
        for part in ("weight", "bias"):
            before, after = old[f"detector.head.predict.{level}.{part}"], new[f"head.predict.{level}.{part}"]
            assert torch.equal(after[0], before[1])  # green
            assert torch.equal(after[2], before[0])  # red
            assert torch.equal(after[3:], before[3:])  # the sides
            assert not torch.equal(after[1], before[2])  # yellow is no blue
    shared_keys = [k for k in new if "head.predict" not in k]
    assert all(torch.equal(new[k], old[f"detector.{k}"]) for k in shared_keys)
    assert "class rows kept by name: green, red; re-initialised: yellow" in caplog.text


def test_the_same_classes_start_where_the_checkpoint_ended(learnt: Path, blocks: Path) -> None:
    begin = start(recipe(init=learnt / "best.ckpt"), ("red", "green", "blue"))
    old = weights(learnt / "best.ckpt")
    assert all(torch.equal(v, old[f"detector.{k}"]) for k, v in begin.detector.state_dict().items())
    assert begin.card.input_size == (96, 96)  # the checkpoint's own
    assert begin.card.architecture.size == "s"


def test_fine_tuning_on_other_classes_keeps_what_was_learnt(learnt: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pictures = [relabel(block_picture(rng, classes=(0, 1)), {0: 2, 1: 0}) for _ in range(8)]
    data = write_coco(tmp_path / "set", {"train": pictures[:4], "val": pictures[4:]}, names=MIXED)
    gentle = ["train.lr=1e-6", "train.lr_end=1e-6", "train.average=0"]
    summary = quick(data, tmp_path / "run", size=None, input=96, batch=4, init=str(learnt / "best.ckpt"), set=gentle)
    assert summary["classes"] == list(MIXED)
    assert summary["best"]["AP50"] > 0.2


def relabel(drawn: Drawn, to: dict[int, int]) -> Drawn:
    return drawn._replace(labels=[to[label] for label in drawn.labels])


@pytest.mark.parametrize("size", ["m", "l"])
def test_another_size_than_the_checkpoints_is_refused(size: str, learnt: Path) -> None:
    with pytest.raises(ModelError, match=rf"size s, not {size}; omit --size"):
        start(recipe(f"model.size={size}", init=learnt / "best.ckpt"), ("red",))


def test_last_checkpoints_can_be_started_from_too(tiny_run: Path) -> None:
    last = weights(tiny_run / "last.ckpt")
    begin = start(recipe(init=tiny_run / "last.ckpt"), tuple(checkpoint(tiny_run / "last.ckpt")["nanogfl"]["names"]))
    key = "head.predict.1.weight"
    assert torch.equal(begin.detector.state_dict()[key], last[f"detector.{key}"])  # the averaged ones


@pytest.mark.parametrize(
    ("asked", "trained"),
    [("light", True), ("light", False), ("full", True), ("none", False)],
)
def test_who_assigns(asked: str, trained: bool, learnt: Path) -> None:
    init = learnt / "best.ckpt" if trained else "none"
    begin = start(recipe(f"model.guidance={asked}", "model.size=s", init=init), ("red", "green", "blue"))
    expected = {"none": type(None), "light": LightGuidance, "full": FullGuidance}
    assert type(begin.guidance) is expected[asked]


def test_guidance_is_carried_on_from_a_last_checkpoint(tiny_run: Path) -> None:
    names = tuple(checkpoint(tiny_run / "last.ckpt")["nanogfl"]["names"])
    begin = start(recipe("model.guidance=light", init=tiny_run / "last.ckpt"), names)
    assert begin.guidance is not None
    old = weights(tiny_run / "last.ckpt")
    assert all(torch.equal(v, old[f"guidance.{k}"]) for k, v in begin.guidance.state_dict().items())


PARTS = [
    Architecture("s", 3, quality="top4", separate_sides=True),
    Architecture("s", 3, reg_max=0, share_levels=True),
    Architecture("s", 3, reg_max=16, quality="moments"),
]


@pytest.mark.parametrize("made", PARTS)
def test_a_checkpoint_brings_all_its_parts(made: Architecture, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "c.ckpt", made)
    begin = start(recipe(init=path), ("red", "green", "blue"))
    assert begin.card.architecture == made
    old = weights(path)
    assert {f"detector.{k}" for k in begin.detector.state_dict()} == set(old)
    assert all(torch.equal(v, old[f"detector.{k}"]) for k, v in begin.detector.state_dict().items())
    written = complete_model(recipe(init=path).model, made)
    assert (written.sides, written.quality) == ("distribution" if made.reg_max else "dirac", made.quality)


def test_what_is_asked_for_is_more_than_what_a_checkpoint_has(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "c.ckpt", PARTS[0])
    for assignments, expected in [
        (["model.quality=none"], replace(PARTS[0], quality="none")),
        (["model.separate_sides=false", "model.share_levels=true"], Architecture("s", 3, 7, True, "top4")),
        (["model.sides=dirac"], Architecture("s", 3, 0, separate_sides=True)),
    ]:
        assert start(recipe(*assignments, init=path), ("a", "b", "c")).card.architecture == expected
    dirac = write_checkpoint(tmp_path / "d.ckpt", PARTS[1])
    begin = start(recipe("model.sides=distribution", init=dirac), ("a", "b", "c"))
    assert begin.card.architecture == Architecture("s", 3, 7, True)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["model.reg_max=16"], "17 values per side, checkpoint has 8"),
        (["model.sides=dirac"], "1 values per side, checkpoint has 8"),
        (["model.separate_sides=true"], "8 values per side, checkpoint has 8"),
        (["model.quality=top4"], None),
        (["model.reg_max=7"], None),
    ],
)
def test_sides_that_a_checkpoint_cannot_bring_are_told(
    asked: list[str], said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_checkpoint(tmp_path / "c.ckpt", Architecture("s", 3))
    with caplog.at_level(logging.INFO, logger="nanogfl"):
        begin = start(recipe(*asked, init=path), ("red", "green", "blue"))
    told = [m for m in caplog.messages if "side predictor re-initialised" in m]
    assert told == ([f"c.ckpt: side predictor re-initialised: {said}"] if said else [])
    old, new = weights(path)["detector.head.predict.0.bias"], begin.detector.state_dict()
    assert torch.equal(new["head.predict.0.bias"][:3], old[:3])  # the classes come along all the same
    sides = new["head.measure.0.bias"] if "head.measure.0.bias" in new else new["head.predict.0.bias"][3:]
    assert torch.equal(sides, old[3:]) == (said is None)


def test_a_frozen_random_backbone_is_warned_of(learnt: Path, caplog: pytest.LogCaptureFixture) -> None:
    freeze, warned = "train.freeze=backbone", "--freeze backbone freezes random weights"
    for init, resumed, said in [("none", False, True), ("none", True, False), (learnt / "best.ckpt", False, False)]:
        caplog.clear()
        start(recipe(freeze, init=init), ("red",), resumed)
        assert (warned in caplog.text) == said


# --- from NanoDet's files


def test_nanodets_classes_are_found_by_name(shared: Path) -> None:
    path = shared / "weights" / "nanodet-plus-m_320.ckpt"
    begin = start(recipe(init=path), ("dog", "unicorn", "person"))
    old, new = read_weights(path).state, begin.detector.state_dict()
    assert begin.card.architecture.size == "m"
    assert begin.card.input_size == (320, 320)
    rows = old["head.predict.2.weight"]
    assert torch.equal(new["head.predict.2.weight"][0], rows[16])  # dog
    assert torch.equal(new["head.predict.2.weight"][2], rows[0])  # person
    assert torch.equal(new["head.predict.2.weight"][3:], rows[80:])
    assert torch.equal(new["backbone.stage3.1.branch2.0.weight"], old["backbone.stage3.1.branch2.0.weight"])


def test_an_input_size_that_nothing_tells_is_a_warning(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A renamed checkpoint: its tensors fit any size."""
    renamed = tmp_path / "model_best.ckpt"
    shutil.copy(shared / "weights" / "nanodet-plus-m_416.ckpt", renamed)
    said = "model_best.ckpt: input size unknown, 320x320 assumed; specify --input, or --config with its .yml"
    assert nanogfl.load(renamed).input_size == (320, 320) and said in caplog.text
    caplog.clear()
    assert nanogfl.load(renamed, input=416).input_size == (416, 416) and not caplog.text.count("unknown")
    told = tmp_path / "mine_416.ckpt"
    renamed.rename(told)
    assert nanogfl.load(told).input_size == (416, 416) and not caplog.text.count("unknown")


def test_a_run_from_nanodets_weights(shared: Path, blocks: Path, tmp_path: Path) -> None:
    path = shared / "reference" / "nanodet_plus_m_10cls.ckpt"
    summary = quick(blocks, tmp_path / "run", size=None, init=str(path))
    assert (summary["epochs"], summary["classes"]) == (1, ["red", "green", "blue"])
    made = load_recipe(str(tmp_path / "run" / "config.yaml"))
    assert (made.model.size, made.model.guidance) == ("m", "none")
    with pytest.raises(ModelError, match="size m, not s"):
        start(recipe("model.size=s", init=path), ("red",))


YML = "data: {val: {input_size: [128, 64], keep_ratio: false}}\nclass_names: [blue, violet, red]\n"


@pytest.mark.parametrize("prefix", ["avg_model.", "model.", ""])
@pytest.mark.parametrize(
    ("yml", "kept", "size"),
    [("", {}, (320, 320)), (YML, {"red": 2, "blue": 0}, (64, 128))],
    ids=["numbered classes have no name in common", "a yml beside it names them, and says width before height"],
)
def test_a_file_in_nanodets_layout(
    yml: str, kept: dict[str, int], size: tuple[int, int], prefix: str, learnt: Path, tmp_path: Path
) -> None:
    old = {k.removeprefix("detector."): v for k, v in weights(learnt / "best.ckpt").items()}
    torch.save({"state_dict": to_nanodet(old, prefix)}, tmp_path / "nano.ckpt")
    if yml:
        (tmp_path / "nano.yml").write_text(yml)
    names = ("red", "green", "blue")
    begin = start(recipe(init=tmp_path / "nano.ckpt"), names)
    new = begin.detector.state_dict()
    for key in old:
        if not key.startswith("head.predict."):
            assert torch.equal(new[key], old[key]), key
            continue
        assert torch.equal(new[key][3:], old[key][3:]), key  # the sides
        for here, name in enumerate(names):
            same = [torch.equal(new[key][here], old[key][there]) for there in range(3)]
            assert same == [kept.get(name) == there for there in range(3)], (key, name)
    assert begin.card.input_size == size


@pytest.mark.parametrize("size", ["s", "m", "l"])
def test_an_imagenet_backbone_fills_the_backbone_only(size: str, tmp_path: Path) -> None:
    path = tmp_path / "shufflenet.pth"
    published = torchvision_state(WIDTHS[size][0])
    torch.save(published, path)
    torch.manual_seed(1)
    begin = start(recipe(init=path), ("a", "b"))
    torch.manual_seed(1)
    fresh = start(recipe(f"model.size={size}"), ("a", "b"))
    assert begin.card.architecture.size == size
    published["conv1.0.weight"] = published["conv1.0.weight"][:, [2, 1, 0]]  # torchvision reads RGB, we BGR
    for key, tensor in begin.detector.state_dict().items():
        expected = published[key.removeprefix("backbone.")] if key.startswith("backbone.") else None
        assert torch.equal(tensor, fresh.detector.state_dict()[key] if expected is None else expected), key
    other = "m" if size == "s" else "s"
    with pytest.raises(ModelError, match=rf"backbone of size {size}, not {other}; change --size"):
        start(recipe(f"model.size={other}", init=path), ("a", "b"))


def test_what_is_no_checkpoint_ends_the_command_with_one_line(
    command: Callable[..., Any], blocks: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "notes.ckpt"
    wrong.write_text("these are not weights")
    said = command("train", blocks, "--out", tmp_path / "run", "--init", wrong)
    assert said.code == 1
    (line,) = said.err.splitlines()
    assert line.startswith("error: ") and str(wrong) in line


@pytest.mark.parametrize("init", ["nowhere.ckpt", "nanodet-plus-x_320"])
def test_an_init_that_is_nowhere_is_named(init: str) -> None:
    with pytest.raises(NanogflError, match=init):
        start(recipe(init=init), ("a",))


def test_an_onnx_is_no_init(learnt_onnx: Path) -> None:
    with pytest.raises(ModelError, match=rf"{learnt_onnx.name} is not a checkpoint; use the best.ckpt of its run"):
        start(recipe(init=learnt_onnx), ("red",))


def test_weights_that_are_no_numbers_are_refused(learnt: Path, tmp_path: Path) -> None:
    """Otherwise the first step would fail, and blame its pictures."""
    content = checkpoint(learnt / "best.ckpt")
    content["state_dict"]["detector.backbone.conv1.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(content, tmp_path / "spoilt.ckpt")
    with pytest.raises(ModelError, match=r"spoilt\.ckpt contains NaN or infinite values in backbone\.conv1\.0\.weight"):
        start(recipe(init=tmp_path / "spoilt.ckpt"), ("red",))


def test_a_recipe_against_its_checkpoint_is_refused(tmp_path: Path) -> None:
    """Each is sound alone: a checkpoint without distributions, and a recipe that leaves the sides open."""
    dirac = write_checkpoint(tmp_path / "dirac.ckpt", PARTS[1])
    with pytest.raises(RecipeError, match=r"does not match the checkpoint: model\.sides=dirac has no distribution"):
        start(recipe("model.quality=top4", init=dirac), ("a", "b", "c"))


def test_the_folder_of_a_run_is_no_checkpoint(learnt: Path) -> None:
    with pytest.raises(UsageError, match=r"is a run folder; use .*best\.ckpt"):
        start(recipe(init=learnt), ("red",))


def test_pictures_without_boxes_teach_background_or_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty = [Drawn(block_picture(np.random.default_rng(0)).picture, [], []) for _ in range(3)]
    quick(write_coco(tmp_path / "set", {"train": empty, "val": empty}), tmp_path / "run", epochs=1)
    assert "none of the 3 training pictures has a box: only background can be learnt" in caplog.text
    nameless = tmp_path / "nameless"  # YOLO's classes are counted from the labels
    for name in "abc":
        write_picture(nameless / "images" / f"{name}.png", empty[0].picture)
        (nameless / "labels").mkdir(exist_ok=True)
        (nameless / "labels" / f"{name}.txt").touch()
    with pytest.raises(DataError, match="has no classes: none of its pictures has a box; annotate some"):
        quick(nameless, tmp_path / "nothing", epochs=1)
    assert not (tmp_path / "nothing").exists()


# --- freezing


def test_a_frozen_backbone_stays_as_it_was_loaded(learnt: Path, blocks: Path, tmp_path: Path) -> None:
    fast = ["train.average=0", "train.warmup=0"]
    options = {"input": 96, "init": str(learnt / "best.ckpt"), "epochs": 2, "set": fast}
    quick(blocks, tmp_path / "frozen", freeze="backbone", **options)
    quick(blocks, tmp_path / "free", **options)
    old = weights(learnt / "best.ckpt")
    frozen, free = (weights(tmp_path / run / "last.ckpt") for run in ("frozen", "free"))
    backbone = [k for k in old if k.startswith("detector.backbone.")]
    assert any("running_var" in k for k in backbone)
    assert [k for k in backbone if not torch.equal(frozen[k], old[k])] == []
    assert all(not torch.equal(free[k], old[k]) for k in backbone if k.endswith("running_mean"))
    rest = [k for k in old if k not in backbone and not k.endswith("num_batches_tracked")]
    assert [k for k in rest if torch.equal(frozen[k], old[k])] == []


def test_a_frozen_backbone_stays_frozen_under_averaging_and_resume(learnt: Path, blocks: Path, tmp_path: Path) -> None:
    run, init = tmp_path / "run", str(learnt / "best.ckpt")
    average = ["train.average=0.9"]
    quick(blocks, run, input=96, init=init, epochs=1, freeze="backbone", set=average)
    nanogfl.train(blocks, out=run, resume=True, epochs=2)
    old, last = weights(learnt / "best.ckpt"), checkpoint(run / "last.ckpt")
    for kind in ("state_dict", "current_model_state"):
        for key in (k for k in old if k.startswith("detector.backbone.")):
            torch.testing.assert_close(last[kind][key], old[key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("factor", "slower"), [(0.0, True), (0.1, True), (1.0, False)])
def test_the_backbone_may_learn_at_a_rate_of_its_own(
    factor: float, slower: bool, learnt: Path, blocks: Path, tmp_path: Path
) -> None:
    rates = [f"train.backbone_lr={factor}", "train.average=0", "train.warmup=0", "train.weight_decay=0"]
    quick(blocks, tmp_path / "run", input=96, init=str(learnt / "best.ckpt"), epochs=1, set=rates)
    old, new = weights(learnt / "best.ckpt"), weights(tmp_path / "run" / "last.ckpt")
    key = "detector.backbone.stage2.0.branch2.0.weight"
    moved = (new[key] - old[key]).abs().max().item()
    assert (moved < 0.0005) == slower  # two steps of Adam at 1e-3
    assert (moved == 0) == (factor == 0)


def test_averaging_leaves_a_frozen_backbone_to_the_bit(learnt: Path, blocks: Path, tmp_path: Path) -> None:
    init = str(learnt / "best.ckpt")
    quick(blocks, tmp_path / "run", input=96, size=None, init=init, freeze="backbone", set=["train.average=0.9"])
    old, new = weights(learnt / "best.ckpt"), weights(tmp_path / "run" / "best.ckpt")
    assert [k for k in old if k.startswith("detector.backbone.") and not torch.equal(old[k], new[k])] == []
