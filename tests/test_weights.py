"""nanogfl.model.weights and checkpoint: every layout that is read, what is kept, what is refused in one line."""

from __future__ import annotations

import io
import logging
import math
import os
import pickle
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from oracles.layouts import State, nanodet_key, to_nanodet, torchvision_state
from torch import Tensor, nn

import nanogfl
from nanogfl.errors import ModelError, NanogflError, RecipeError
from nanogfl.model.checkpoint import Card, read_card
from nanogfl.model.coco_names import COCO_NAMES
from nanogfl.model.detector import WIDTHS, Architecture, Detector, make_guidance
from nanogfl.model.weights import Weights, backbone_size, load_state, read_weights, recognise, transplant

Size = Literal["s", "m", "l"]
NAMES = ("cat", "dog", "owl")


def random_detector(architecture: Architecture, seed: int = 0) -> Detector:
    """Every tensor of it different from every fresh detector's, batch statistics too."""
    detector = Detector(architecture)
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in detector.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        else:
            tensor.fill_(len(key))
    return detector


@pytest.fixture(scope="module")
def small() -> Detector:
    return random_detector(Architecture("s", 3))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def nanodet_file(folder: Path, detector: nn.Module, name: str = "model_best.ckpt", prefix: str = "model.") -> Path:
    return saved(folder / name, {"state_dict": to_nanodet(detector.state_dict(), prefix)})


def own_file(folder: Path, detector: Detector, **changes: Any) -> Path:
    """A checkpoint as training writes it, with parts of its card changed."""
    card = Card(detector.architecture, NAMES, (256, 416), "stretch", 1.25).to_dict() | changes
    state = {f"detector.{k}": v for k, v in detector.state_dict().items()}
    return saved(folder / "best.ckpt", {"nanogfl": card, "state_dict": state, "epoch": 3})


def load(weights: Weights) -> Detector:
    detector = Detector(recognise(weights.state, weights.source))
    load_state(detector, weights.state, weights.source)
    return detector


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- NanoDet's layouts


@pytest.mark.parametrize("prefix", ["avg_model.", "model.", ""])
@pytest.mark.parametrize("lightning", [True, False], ids=["lightning", "bare state dict"])
def test_every_nanodet_layout_gives_the_same_detector(
    tmp_path: Path, small: Detector, prefix: str, lightning: bool
) -> None:
    state = to_nanodet(small.state_dict(), prefix)
    weights = read_weights(saved(tmp_path / "x.ckpt", {"epoch": 1, "state_dict": state} if lightning else state))
    assert weights.kind == "nanodet" and not weights.card
    assert same(load(weights).state_dict(), small.state_dict())


def test_averaged_weights_are_preferred(tmp_path: Path, small: Detector) -> None:
    state = to_nanodet({k: torch.zeros_like(v) for k, v in small.state_dict().items()}, "model.")
    state |= to_nanodet(small.state_dict(), "avg_model.")
    weights = read_weights(saved(tmp_path / "x.ckpt", {"state_dict": state}))
    assert same(load(weights).state_dict(), small.state_dict())


def test_golden_checkpoint_gives_its_averaged_tensors(shared: Path) -> None:
    """Its ``model.*`` are all zero; each tensor of ours is the one that NanoDet's name says."""
    path = shared / "reference" / "nanodet_plus_m_10cls.ckpt"
    content = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    weights = read_weights(path)
    assert recognise(weights.state, path) == Architecture("m", 10)
    for key, tensor in load(weights).state_dict().items():
        assert torch.equal(tensor, content[f"avg_model.{nanodet_key(key)}"]), key
    guidance = make_guidance("full", Architecture("m", 10))
    assert guidance is not None
    assert {f"guidance.{k}" for k in guidance.state_dict()} <= weights.state.keys()
    scales = [content[f"avg_model.aux_head.scales.{i}.scale"] for i in range(4)]
    assert torch.equal(weights.state["guidance.head.scales"], torch.stack(scales))


def test_published_weights_are_recognised(shared: Path) -> None:
    path = shared / "weights" / "nanodet-plus-m_416.ckpt"
    card = read_card(read_weights(path))
    assert card == Card(Architecture("m", 80), COCO_NAMES, (416, 416), "stretch-corner")


@pytest.mark.parametrize("size", ["s", "m", "l"])
@pytest.mark.parametrize(("classes", "share"), [(1, False), (10, True), (80, False)])
def test_size_classes_and_branches_are_read_from_the_tensors(
    tmp_path: Path, size: Size, classes: int, share: bool
) -> None:
    detector = Detector(Architecture(size, classes, share_levels=share))
    weights = read_weights(nanodet_file(tmp_path, detector))
    assert recognise(weights.state, weights.source) == detector.architecture
    assert same(load(weights).state_dict(), detector.state_dict())


@pytest.mark.parametrize("family", ["plus", "first", "resnet"])
def test_the_size_of_a_backbone_is_read_from_its_tensors(family: Literal["plus", "first", "resnet"]) -> None:
    """ResNet-34 and -50 have as many blocks, of other kinds; a stage more or less is none that is known."""
    for size in ("s", "m", "l"):
        state = dict(Detector(Architecture(size, 3, family=family)).backbone.state_dict())
        state = {f"backbone.{key}": value for key, value in state.items()}
        assert backbone_size(state) == (family == "resnet", size)
        cut = {k: v for k, v in state.items() if not k.startswith(("backbone.stage4", "backbone.layer4"))}
        assert backbone_size(cut) == (family == "resnet", None)


def test_half_precision_is_read_as_float32_and_old_files_without_counters(tmp_path: Path, small: Detector) -> None:
    state = {k: v.half() for k, v in to_nanodet(small.state_dict(), "").items() if v.is_floating_point()}
    loaded = load(read_weights(saved(tmp_path / "x.ckpt", state))).state_dict()
    for key, tensor in small.state_dict().items():
        if tensor.is_floating_point():
            assert loaded[key].dtype == torch.float32
            assert torch.equal(loaded[key], tensor.half().float())


def test_buffers_that_the_network_does_not_need_are_left_out(tmp_path: Path, small: Detector) -> None:
    state = to_nanodet(small.state_dict(), "model.") | {"model.head.distribution_project.project": torch.arange(8.0)}
    weights = read_weights(saved(tmp_path / "x.ckpt", {"state_dict": state}))
    assert not any("distribution_project" in k for k in weights.state)


@pytest.mark.parametrize("said", ["bins", "guidance"])
def test_the_number_of_bins_is_read_from_the_tensors(said: str, tmp_path: Path) -> None:
    """Ten classes and 44 rows of sides are not 22 classes and 32."""
    made = Architecture("s", 10, reg_max=10)
    state = to_nanodet(random_detector(made).state_dict(), "model.")
    state |= {"model.head.distribution_project.project": torch.arange(11.0)} if said == "bins" else {}
    state |= {"model.aux_head.gfl_reg.weight": torch.zeros(44, 144, 3, 3)} if said == "guidance" else {}
    weights = read_weights(saved(tmp_path / "x.ckpt", {"state_dict": state}))
    assert recognise(weights.state, weights.source) == made


def test_the_number_of_bins_is_that_of_a_branch_of_sides() -> None:
    made = Architecture("s", 10, reg_max=10, family="first", separate_sides=True)
    assert recognise(dict(Detector(made).state_dict()), Path("x.ckpt")) == made


def test_what_is_no_tensor_or_has_no_name_is_left_out(tmp_path: Path, small: Detector) -> None:
    odd = {3: torch.zeros(3), "note": "mine", "epoch": 7, "nothing": None}
    path = saved(tmp_path / "x.ckpt", {"state_dict": to_nanodet(small.state_dict(), "model.") | odd})
    assert same(load(read_weights(path)).state_dict(), small.state_dict())


def test_the_first_half_sized_nanodet_has_the_neck_of_the_whole_one() -> None:
    """nanodet-m-0.5x, -m and -m-1.5x as they were published: 96, 96 and 128 channels."""
    necks = [Detector(Architecture(size, 80, family="first")).neck for size in ("s", "m", "l")]
    assert [neck.state_dict()["lateral.0.weight"].shape[0] for neck in necks] == [96, 96, 128]


# --- our own


def test_our_checkpoint_says_what_it_is(tmp_path: Path, small: Detector) -> None:
    weights = read_weights(own_file(tmp_path, small))
    assert weights.kind == "nanogfl"
    assert same(dict(weights.state), dict(small.state_dict()))
    assert read_card(weights) == Card(small.architecture, NAMES, (256, 416), "stretch", 1.25)


BAD_CARDS: list[tuple[dict[str, Any], str]] = [
    ({"schema": 2}, "schema 2.*upgrade"),
    ({"names": ["cat"]}, "1 names"),
    ({"names": None}, "not a complete checkpoint"),
    ({"resize": "squeeze"}, "squeeze"),
    ({"input_size": [320]}, "not a complete checkpoint"),
    ({"input_size": None}, "not a complete checkpoint"),
    ({"architecture": {"width": 3}}, "width"),
    ({"temperature": "warm"}, "warm"),
    ({"temperature": math.nan}, "temperature nan"),
    ({"temperature": math.inf}, "temperature inf"),
    ({"temperature": -1.0}, "temperature -1"),
    ({"temperature": torch.ones(2)}, "not a complete checkpoint"),
    ({"schema": "1"}, "schema 1.*upgrade"),
    ({"schema": torch.ones(2)}, "schema.*upgrade"),
    ({"names": "cat"}, "must be a list, not str"),
    ({"names": [["cat"], "dog", "owl"]}, "must be a list"),
    ({"names": torch.zeros(3)}, "must be a list, not Tensor"),
    ({"input_size": [math.inf, 320]}, "not a complete checkpoint"),
    ({"input_size": "320x320"}, "not a complete checkpoint|has an unknown size"),
    ({"architecture": None}, "not a complete checkpoint"),
    ({"architecture": {"size": "s", "classes": 3.0}}, "classes 3.0"),
    ({"architecture": {"size": "s", "classes": -3}}, "classes -3"),
    ({"architecture": {"size": ["s"], "classes": 3}}, "size"),
    ({"architecture": {"size": "s", "classes": 3, "quality": "best"}}, "quality best"),
    ({"architecture": {"size": "s", "classes": 3, "reg_max": 10**9}}, "a head with"),
    ({"architecture": {"size": "s", "classes": 4}, "names": ["a", "b", "c", "d"]}, "a head with"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_CARDS, ids=[str(c) for c, _ in BAD_CARDS])
def test_a_card_that_does_not_hold_is_refused(
    tmp_path: Path, small: Detector, changes: dict[str, Any], message: str
) -> None:
    weights = read_weights(own_file(tmp_path, small, **changes))
    refused(lambda: read_card(weights), message)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_size": [300, 320]}, {"input_size": [32, 32]}, {"input_size": [-320, 320]}, {"input_size": [320, 2**40]},
        {"architecture": {"size": "xl", "classes": 3}},
    ],
)  # fmt: skip
def test_a_card_that_no_network_can_have_is_refused(tmp_path: Path, small: Detector, changes: dict[str, Any]) -> None:
    weights = read_weights(own_file(tmp_path, small, **changes))
    refused(lambda: read_card(weights), "has an unknown size")


# --- other classes


def trained(classes: tuple[str, ...], kind: str = "nanogfl", **shape: Any) -> Weights:
    detector = random_detector(Architecture("s", len(classes), **shape), seed=1)
    return Weights(Path("old.ckpt"), kind, dict(detector.state_dict()))


@pytest.mark.parametrize(
    ("new", "kept"),
    [
        (("cat", "dog", "owl"), ["cat", "dog", "owl"]),  # the same
        (("owl", "cat", "dog"), ["owl", "cat", "dog"]),  # another order: rows follow their names
        (("fox", "owl"), ["owl"]),
        (("bat", "cat", "elk", "dog", "owl"), ["cat", "dog", "owl"]),
        (("fox", "elk", "bat"), []),  # as many, but none the same
    ],
)
@pytest.mark.parametrize("share", [False, True])
def test_transplant_keeps_rows_by_name_and_everything_else(new: tuple[str, ...], kept: list[str], share: bool) -> None:
    weights = trained(NAMES, share_levels=share)
    detector = Detector(Architecture("s", len(new), share_levels=share))
    fresh = {k: v.clone() for k, v in detector.state_dict().items()}
    assert transplant(detector, weights, NAMES, new) == kept
    for key, tensor in detector.state_dict().items():
        old = weights.state[key]
        if not key.startswith("head.predict."):
            assert torch.equal(tensor, old), key
            continue
        assert torch.equal(tensor[len(new) :], old[3:])  # sides
        for row, name in enumerate(new):
            expected = old[NAMES.index(name)] if name in NAMES else fresh[key][row]
            assert torch.equal(tensor[row], expected), (key, name)


def test_transplant_into_one_shared_branch_takes_the_first_level(caplog: pytest.LogCaptureFixture) -> None:
    weights = trained(NAMES)
    detector = Detector(Architecture("s", 3, share_levels=True))
    with caplog.at_level("INFO", logger="nanogfl"):
        assert transplant(detector, weights, NAMES, NAMES) == list(NAMES)
    assert torch.equal(detector.state_dict()["head.predict.0.weight"], weights.state["head.predict.0.weight"])
    assert "only the first of 4 head branches is used" in caplog.text


def test_transplant_of_one_shared_branch_fills_every_level(caplog: pytest.LogCaptureFixture) -> None:
    weights, new = trained(NAMES, share_levels=True), ("owl", "fox")
    detector = Detector(Architecture("s", 2))
    with caplog.at_level("INFO", logger="nanogfl"):
        assert transplant(detector, weights, NAMES, new) == ["owl"]
    state = detector.state_dict()
    for level in range(4):
        tower = f"head.towers.{level}.1.0.weight"
        assert torch.equal(state[tower], weights.state["head.towers.0.1.0.weight"])
        for kind in ("weight", "bias"):
            old, made = weights.state[f"head.predict.0.{kind}"], state[f"head.predict.{level}.{kind}"]
            assert torch.equal(made[2:], old[3:]) and torch.equal(made[0], old[NAMES.index("owl")])
    assert "its only head branch is used for each of 4 levels" in caplog.text


def test_every_level_gets_the_one_branch_of_the_sides_too() -> None:
    weights = trained(NAMES, share_levels=True, separate_sides=True)
    detector = Detector(Architecture("s", 3, separate_sides=True))
    transplant(detector, weights, NAMES, NAMES)
    state = detector.state_dict()
    for level in range(4):
        for key in ("side_towers.{}.0.0.weight", "towers.{}.0.0.weight", "measure.{}.weight", "measure.{}.bias"):
            old, made = weights.state[f"head.{key.format(0)}"], state[f"head.{key.format(level)}"]
            assert torch.equal(made, old), (key, level)


@pytest.mark.parametrize("count", [2, 39])
def test_transplant_of_rows_that_are_not_the_names_is_refused(count: int) -> None:
    """Behind the names' rows come those of the sides, four times as many as there are bins: never fewer than none."""
    names = [f"{i}" for i in range(count)]
    detector = Detector(Architecture("s", 2))
    refused(lambda: transplant(detector, trained(NAMES), names, ("0", "1")), f"35 rows for {count}")


def test_no_class_is_kept_where_there_is_no_class_layer() -> None:
    weights = trained(NAMES)
    state = {k: v for k, v in weights.state.items() if not k.startswith("head.predict.")}
    assert transplant(Detector(Architecture("s", 3)), replace(weights, state=state), NAMES, NAMES) == []


def test_a_branch_of_another_width_is_left_out() -> None:
    """The head of the larger size has wider branches, and biases of the same length."""
    weights, detector = trained(NAMES), Detector(Architecture("l", 3))
    key, fresh = "head.predict.0.weight", detector.state_dict()["head.predict.0.weight"].clone()
    transplant(detector, weights, NAMES, NAMES)
    assert torch.equal(detector.state_dict()[key], fresh)
    assert torch.equal(detector.state_dict()["head.predict.0.bias"], weights.state["head.predict.0.bias"])


@pytest.mark.parametrize(
    ("value", "message"), [(math.nan, "NaN or infinite"), (math.inf, "NaN or infinite"), (None, None)]
)
def test_transplant_leaves_out_what_does_not_fit_and_refuses_what_is_no_number(
    value: float | None, message: str | None
) -> None:
    weights, detector = trained(NAMES), Detector(Architecture("s", 3))
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    key = "head.predict.0.bias"
    if value is None or message is None:
        weights.state[key] = torch.tensor(1.0)  # type: ignore[index]
        transplant(detector, weights, NAMES, NAMES)
        assert torch.equal(detector.state_dict()[key], before[key])
        return
    weights.state[key][-1] = value
    refused(lambda: transplant(detector, weights, NAMES, NAMES), message)
    assert same(dict(detector.state_dict()), before)


@pytest.mark.parametrize("without", ["", "num_batches_tracked", "head.predict.0.bias"])
def test_what_was_loaded_is_said(without: str, caplog: pytest.LogCaptureFixture) -> None:
    """Counters of batches are not missed."""
    weights, detector = trained(NAMES), Detector(Architecture("s", 3))
    state = {k: v for k, v in weights.state.items() if not without or not k.endswith(without)}
    with caplog.at_level(logging.INFO, "nanogfl"):
        transplant(detector, replace(weights, state=state), NAMES, NAMES)
    made = ", 1 re-initialised (head.predict.0.bias ...)" if without.startswith("head") else ""
    assert caplog.messages == [f"old.ckpt: {len(state)} tensors loaded{made}"]


def test_transplant_keeps_a_quality_predictor_of_the_same_kind_only() -> None:
    weights = trained(NAMES, quality="top4")
    for quality, expected in (("top4", True), ("moments", False)):
        detector = Detector(Architecture("s", 3, quality=quality))  # type: ignore[arg-type]
        transplant(detector, weights, NAMES, NAMES)
        got = detector.state_dict()["head.quality.fc1.weight"]
        assert (got.shape == (64, 20) and torch.equal(got, weights.state["head.quality.fc1.weight"])) == expected


@pytest.mark.parametrize("new", [("owl", "cat", "dog"), ("fox", "owl")], ids=["another order", "other classes"])
def test_transplant_of_guidance_keeps_rows_by_name(new: tuple[str, ...]) -> None:
    """As nanogfl.training.start calls it: under the key ``guidance``."""
    source, target = (make_guidance("light", Architecture("s", n)) for n in (3, len(new)))
    assert source is not None and target is not None
    nn.init.normal_(source.head.classify.weight, generator=torch.Generator().manual_seed(0))
    state = {f"guidance.{key}": value for key, value in source.state_dict().items()}
    transplant(nn.ModuleDict({"guidance": target}), Weights(Path("old.ckpt"), "nanogfl", state), NAMES, new)
    got = target.head.classify.weight[new.index("owl")]
    assert torch.equal(got, source.head.classify.weight[NAMES.index("owl")])


# --- ImageNet


@pytest.mark.parametrize(("size", "last"), [("s", 1024), ("m", 1024), ("l", 1024)])
def test_torchvisions_layout_fills_the_whole_backbone_and_nothing_else(tmp_path: Path, size: Size, last: int) -> None:
    state = torchvision_state(WIDTHS[size][0], last)
    weights = read_weights(saved(tmp_path / "shufflenetv2.pth", state))
    assert weights.kind == "imagenet"
    detector = Detector(Architecture(size, 3))
    fresh = {k: v.clone() for k, v in detector.state_dict().items()}
    assert transplant(detector, weights, None, NAMES) == []
    state["conv1.0.weight"] = state["conv1.0.weight"][:, [2, 1, 0]]  # torchvision reads RGB, we BGR
    for key, tensor in detector.state_dict().items():
        room, _, name = key.partition(".")
        assert torch.equal(tensor, state[name] if room == "backbone" else fresh[key]), key
    refused(lambda: read_card(weights), "backbone only.*--init")


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, small: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = nanodet_file(tmp_path, small)
    monkeypatch.setattr(torch, "load", refuse)
    refused(lambda: read_weights(path), "cannot read .*: Permission denied; check its permissions")


def test_old_lightning_names_its_callbacks_by_class(tmp_path: Path, small: Detector) -> None:
    class ModelCheckpoint:
        """Until 1.4 the class itself is the key of its state."""

    ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"
    ModelCheckpoint.__qualname__ = "ModelCheckpoint"
    room = types.ModuleType(ModelCheckpoint.__module__)
    room.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patched:  # so that it can be written
        patched.setitem(sys.modules, ModelCheckpoint.__module__, room)
        callbacks = {ModelCheckpoint: {"monitor": None, "best_model_path": ""}}
        state = to_nanodet(small.state_dict(), "model.")
        path = saved(tmp_path / "old.ckpt", {"state_dict": state, "callbacks": callbacks})
    assert same(read_weights(path).state, small.state_dict())


# --- what the tensors do not say


def yml(path: Path, size: str = "[416, 320]", names: str | None = "[cat, dog, owl]", more: str = "") -> Path:
    classes = "" if names is None else f"class_names: &names {names}\n"
    path.write_text(f"{classes}data:\n  val:\n    input_size: {size}\n{more}")
    return path


def test_nanodets_yml_writes_width_before_height(tmp_path: Path, small: Detector) -> None:
    weights = read_weights(nanodet_file(tmp_path, small))
    card = read_card(weights, yml(tmp_path / "any.yml", more="    keep_ratio: true\n"))
    assert card == Card(small.architecture, NAMES, (320, 416), "letterbox")
    assert read_card(weights, yml(tmp_path / "any.yml", more="    keep_ratio: False\n")).resize == "stretch-corner"


@pytest.mark.parametrize(("family", "rule"), [("plus", "stretch-corner"), ("first", "letterbox")])
def test_a_yml_that_is_silent_on_the_ratio_leaves_what_its_family_does(
    tmp_path: Path, family: Literal["plus", "first"], rule: str
) -> None:
    state = random_detector(Architecture("s", 3, family=family)).state_dict()
    card = read_card(Weights(tmp_path / "any.ckpt", "nanodet", dict(state)), yml(tmp_path / "any.yml"))
    assert card.resize == rule and card.names == NAMES


@pytest.mark.parametrize(
    ("checkpoint", "config"),
    [("fox.ckpt", "fox.yml"), ("fox.ckpt", "fox.yaml"), ("fox_416_checkpoint.ckpt", "fox_416.yml")],
)
def test_a_yml_beside_the_checkpoint_is_found(
    tmp_path: Path, small: Detector, checkpoint: str, config: str, caplog: pytest.LogCaptureFixture
) -> None:
    yml(tmp_path / config, "[96, 64]")
    yml(tmp_path / "other.yml", "[128, 128]", "[a, b, c]")
    with caplog.at_level(logging.INFO, "nanogfl"):
        card = read_card(read_weights(nanodet_file(tmp_path, small, checkpoint)))
    assert card.input_size == (64, 96) and card.names == NAMES
    assert "input 64x96 from its .yml, class names from its .yml" in caplog.text
    given = read_card(read_weights(tmp_path / checkpoint), tmp_path / "other.yml")
    assert given.input_size == (128, 128) and given.names == ("a", "b", "c")  # an option comes before


@pytest.mark.parametrize(
    ("name", "side", "said"),
    [
        ("nanodet-plus-m_416.ckpt", 416, "the file name"),
        ("nanodet-plus-m_416_checkpoint.ckpt", 416, "the file name"),
        ("fox_64.ckpt", 64, "the file name"),
        ("model_best.ckpt", 320, "the default"),
        ("fox416.ckpt", 320, "the default"),
    ],
)
def test_without_a_yml_the_files_name_says_the_size(
    tmp_path: Path, small: Detector, name: str, side: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "nanogfl"):
        card = read_card(read_weights(nanodet_file(tmp_path, small, name)))
    assert card.input_size == (side, side)
    assert f"input {side}x{side} from {said}" in caplog.text


@pytest.mark.parametrize(
    ("name", "side", "said"),
    [
        ("fox_10cls.ckpt", 320, "the default"),
        ("fox_100.ckpt", 320, "the default"),
        ("run_12_416.ckpt", 416, "the file name"),
        ("run_416_epoch_96.ckpt", 416, "the file name"),
    ],
)
def test_numbers_in_the_name_that_are_no_size(
    tmp_path: Path, small: Detector, name: str, side: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    test_without_a_yml_the_files_name_says_the_size(tmp_path, small, name, side, said, caplog)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(80, COCO_NAMES), (3, ("class_0", "class_1", "class_2")), (1, ("class_0",))],
)
def test_class_names_where_nobody_says_them(tmp_path: Path, classes: int, expected: tuple[str, ...]) -> None:
    path = nanodet_file(tmp_path, Detector(Architecture("s", classes)))
    assert read_card(read_weights(path)).names == expected
    yml(path.with_suffix(".yml"), names=None)  # one that does not name its classes
    assert read_card(read_weights(path)).names == expected


def test_cocos_names_as_nanodet_writes_them_are_cocos(tmp_path: Path) -> None:
    path = nanodet_file(tmp_path, Detector(Architecture("s", 80)))
    listed = [name.replace(" ", "_") for name in COCO_NAMES]
    yml(path.with_suffix(".yml"), names=str(listed))
    assert read_card(read_weights(path)).names == COCO_NAMES  # stop sign, as sets have it
    yml(path.with_suffix(".yml"), names=str([*listed[:-1], "tooth_brush"]))
    assert read_card(read_weights(path)).names == (*listed[:-1], "tooth_brush"), "one's own names stay as they are"


def test_coco_has_eighty_different_names_in_the_order_of_its_ids() -> None:
    assert len(set(COCO_NAMES)) == len(COCO_NAMES) == 80
    assert [COCO_NAMES[i] for i in (0, 2, 11, 16, 79)] == ["person", "car", "stop sign", "dog", "toothbrush"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("class_names: [a, b]\ndata: {val: {input_size: [320, 320]}}", ModelError, "2 classes.*has 3.*--config"),
        ("class_names: [a, b, c]", RecipeError, "not a NanoDet configuration"),
        ("class_names: fox\ndata: {val: {input_size: [320, 320]}}", RecipeError, "must be a list, not str"),
        ("class_names: [a, b, [c]]\ndata: {val: {input_size: [320, 320]}}", RecipeError, "names must be a list"),
        ("data: {val: {input_size: 320}}", RecipeError, "not a NanoDet configuration"),
        ("data: {val: {input_size: [320, 320, 3]}}", RecipeError, "not a NanoDet configuration"),
        ("data: {val: {input_size: [a, b]}}", RecipeError, "not a NanoDet configuration"),
        (
            "data: {val: {input_size: [320, 320], keep_ratio: 1}}",
            RecipeError,
            "keep_ratio must be true or false, not 1",
        ),
        (
            "data: {val: {input_size: [9, 9], pipeline: {normalize: [[1], 2]}}}",
            RecipeError,
            "not a NanoDet configuration",
        ),
        ("- a\n- list", RecipeError, "not a NanoDet configuration"),
        ("", RecipeError, "not a NanoDet configuration"),
        ("a: [1, 2", RecipeError, "not a NanoDet configuration"),
        ("x: !!python/object/apply:os.system ['exit 1']", RecipeError, "not a NanoDet configuration"),
        (None, RecipeError, "--config.*No such file"),
    ],
)
def test_a_yml_that_cannot_be_used_is_an_error(
    tmp_path: Path, small: Detector, content: str | None, error: type[NanogflError], message: str
) -> None:
    path = tmp_path / "given.yml"
    if content is not None:
        path.write_text(content)
    weights = read_weights(nanodet_file(tmp_path, small))
    refused(lambda: read_card(weights, path), message, error)


MEANS = "[[103.53, 116.28, 123.675], [57.375, 57.12, 58.395]]"


@pytest.mark.parametrize(
    ("model", "pictures", "named"),
    [
        ("backbone: {activation: LeakyReLU}, head: {strides: [8, 16, 32, 64], reg_max: 7}", MEANS, None),
        ("head: {}", MEANS.replace("57.12", "57.1200001"), None),
        ("backbone: {activation: ReLU6}", MEANS, "backbone activation ReLU6"),
        ("fpn: {activation: ReLU}", MEANS, "fpn activation ReLU"),
        ("head: {strides: [4, 8, 16, 32]}", MEANS, r"strides \[4, 8, 16, 32\]"),
        ("head: {reg_max: 10}", MEANS, "reg_max 10"),
        ("head: {}", "[[0, 0, 0], [255, 255, 255]]", "normalize"),
        ("head: {}", "null", None),
    ],
)
def test_a_yml_of_another_function_is_refused(
    model: str, pictures: str, named: str | None, tmp_path: Path, small: Detector
) -> None:
    """The tensors would fit, and find other boxes than NanoDet."""
    path = yml(tmp_path / "given.yml", more=f"    pipeline: {{normalize: {pictures}}}\nmodel: {{arch: {{{model}}}}}\n")
    weights = read_weights(nanodet_file(tmp_path, small))
    if named is None:
        assert read_card(weights, path).names == NAMES
    else:
        refused(lambda: read_card(weights, path), named, ModelError)


def test_a_yml_names_each_class_once(tmp_path: Path, small: Detector) -> None:
    weights = read_weights(nanodet_file(tmp_path, small))
    refused(
        lambda: read_card(weights, yml(tmp_path / "given.yml", names="[cat, dog, cat]")),
        "class 'cat' twice",
        ModelError,
    )


@pytest.mark.parametrize("size", ["[300, 320]", "[32, 32]", "[0, 0]", "[-320, 320]"])
def test_a_yml_with_a_size_that_no_network_has_is_an_error(tmp_path: Path, small: Detector, size: str) -> None:
    weights = read_weights(nanodet_file(tmp_path, small))
    refused(lambda: read_card(weights, yml(tmp_path / "given.yml", size)), "multiples of 32", NanogflError)


# --- files that cannot be read


def refused(action: Callable[[], object], message: str, error: type[NanogflError] = ModelError) -> None:
    with pytest.raises(error, match=message) as caught:
        action()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def archive(content: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


class Attack:
    """Unpickled as code, it would make a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize(
    "write",
    [
        lambda attack: archive({"state_dict": attack}),
        lambda attack: archive({"state_dict": {"backbone.conv1.0.weight": torch.zeros(1)}, "extra": [attack]}),
        lambda attack: archive({"state_dict": attack}, zipped=False),
        lambda attack: pickle.dumps({"state_dict": attack}, protocol=2),
    ],
    ids=["zip", "beside tensors", "before torch 1.6", "a bare pickle"],
)
def test_code_in_a_checkpoint_never_runs(tmp_path: Path, write: Callable[[Attack], bytes]) -> None:
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    path.write_bytes(write(Attack(trace)))
    refused(lambda: read_weights(path), "could run code")
    assert not trace.exists()


def test_the_attack_would_have_worked(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Attack(tmp_path / "trace")))
    assert (tmp_path / "trace").is_dir()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is no checkpoint",
        b"<html>404</html>",
        b"PK\x03\x04 and nothing",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        bytes(1000),
    ],
    ids=["empty", "text", "a web page", "no zip", "a picture", "zeros"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    refused(lambda: read_weights(path), "x.ckpt")


@pytest.mark.parametrize(
    ("name", "content", "give"),
    [
        ("m.onnx", b"\x08\x08\x12\x07nanogfl", r"use the best\.ckpt of its run"),
        ("m.ckpt", b"<html>404</html>", "use a file written by nanogfl or NanoDet"),
    ],
)
def test_what_to_give_instead_of_another_file_is_said(name: str, content: bytes, give: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(lambda: read_weights(tmp_path / name), f"{name} is not a checkpoint; {give}")


def test_a_tensor_without_values_is_refused(tmp_path: Path) -> None:
    state = {"model.head.gfl_cls.0.weight": torch.zeros(3, device="meta")}
    refused(lambda: read_weights(saved(tmp_path / "x.ckpt", {"state_dict": state})), "not a plain tensor")


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of its own storages
def test_a_tensor_in_bytes_is_refused(tmp_path: Path) -> None:
    """Of torch's own quantization: it has a scale beside its values."""
    state = {"model.head.gfl_cls.0.weight": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}
    refused(lambda: read_weights(saved(tmp_path / "x.ckpt", {"state_dict": state})), "not a plain tensor")


@pytest.mark.parametrize("part", [0.0001, 0.3, 0.9, 0.9999])
def test_a_cut_checkpoint_is_refused(tmp_path: Path, small: Detector, part: float) -> None:
    path = own_file(tmp_path, small)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    refused(lambda: read_weights(path), "damaged")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains a list"),
        (torch.zeros(3), "contains a Tensor"),
        ({}, "not a supported detector"),
        ({"state_dict": None}, "no weights under state_dict"),
        ({"layer1.0.conv1.weight": torch.zeros(3)}, "no ShuffleNetV2"),
        ({"nanogfl": {"schema": 1}}, "no state_dict"),
    ],
    ids=["list", "tensor", "nothing", "no state dict", "another network", "half of ours"],
)
def test_files_with_something_else_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = saved(tmp_path / "x.ckpt", content)
    refused(lambda: read_weights(path), message)


@pytest.mark.parametrize("path", ["missing.ckpt", "."])
def test_no_file_is_refused(tmp_path: Path, path: str) -> None:
    refused(lambda: read_weights(tmp_path / path), "does not exist; check the path")


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("gfl_cls", "0 head levels"),
        ("stage4", "not NanoDet-Plus or the first"),
        ("extra_lvl_in", "not NanoDet-Plus or the first"),
        ("reduce_layers.1.bn", r"lacks neck\.reduce\.1\.1\.weight \(and 3 more\)"),
        ("cls_convs.2", r"lacks head\.towers\.2"),
    ],
)
def test_a_detector_with_parts_missing_is_refused(tmp_path: Path, small: Detector, without: str, message: str) -> None:
    state = {k: v for k, v in to_nanodet(small.state_dict(), "model.").items() if without not in k}
    path = saved(tmp_path / "x.ckpt", {"state_dict": state})
    refused(lambda: load(read_weights(path)), message)


@pytest.mark.parametrize("columns", [32, 20])
def test_a_head_without_classes_is_refused(tmp_path: Path, small: Detector, columns: int) -> None:
    state = to_nanodet(small.state_dict(), "model.")
    state = {k: v[:columns] if "gfl_cls" in k else v for k, v in state.items()}
    path = saved(tmp_path / "x.ckpt", {"state_dict": state})
    refused(lambda: read_card(read_weights(path)), "outputs")


READS_NO_SPARSE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 15)
ODD: list[tuple[str, Callable[[Tensor], object], str]] = [
    ("a number without axes", lambda t: torch.tensor(1.0), r"\.ckpt"),
    ("sparse", lambda t: t.to_sparse(), "is damaged or not a checkpoint" if READS_NO_SPARSE else "not a plain tensor"),
    ("complex", lambda t: t.to(torch.complex64), "not a plain tensor"),
    ("one value repeated without end", lambda t: torch.zeros(1).expand(10**12), "not a plain tensor"),
    ("another shape", lambda t: t[:1], r"\.ckpt"),
    ("no number", lambda t: t.new_full(t.shape, math.nan), "NaN or infinite"),
    ("infinite", lambda t: t.new_full(t.shape, math.inf), "NaN or infinite"),
    ("text", lambda t: "weights", r"\.ckpt"),
    ("nothing", lambda t: None, r"\.ckpt"),
    ("empty", lambda t: t[:0], r"\.ckpt"),
]


@pytest.mark.parametrize("layout", ["ours", "nanodet"])
@pytest.mark.parametrize(
    "key", ["backbone.conv1.0.weight", "backbone.stage3.0.branch2.5.weight", "head.predict.0.bias"]
)
@pytest.mark.parametrize(("change", "message"), [o[1:] for o in ODD], ids=[o[0] for o in ODD])
def test_odd_tensors_are_refused(
    tmp_path: Path, small: Detector, layout: str, key: str, change: Callable[[Tensor], object], message: str
) -> None:
    path = (own_file if layout == "ours" else nanodet_file)(tmp_path, small)
    content = torch.load(path, weights_only=True)
    if layout == "ours":
        key = f"detector.{key}"
    else:
        key = next(k for k in content["state_dict"] if k.endswith(key.replace("head.predict", "gfl_cls")))
    content["state_dict"][key] = change(content["state_dict"][key])
    torch.save(content, path)
    refused(lambda: nanogfl.load(path), message)


def test_load_state_is_strict_and_leaves_the_module_alone(small: Detector) -> None:
    detector = Detector(replace(small.architecture, classes=5))
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    refused(
        lambda: load_state(detector, small.state_dict(), Path("x.ckpt")),
        r"x\.ckpt has the wrong shape for head\.predict\.0\.weight \(and 7 more\)",
    )
    without = {k: v for k, v in small.state_dict().items() if not k.startswith("neck.extra_in.0.")}
    refused(
        lambda: load_state(detector, without, Path("x.ckpt")),
        r"x\.ckpt lacks neck\.extra_in\.0\.weight \(and 8 more\); check its size",
    )
    assert same(dict(detector.state_dict()), before)


def test_load_state_copies(small: Detector) -> None:
    state: dict[str, Tensor] = {k: v.clone() for k, v in small.state_dict().items()}
    detector = Detector(small.architecture)
    load_state(detector, state, Path("x.ckpt"))
    for tensor in state.values():
        tensor.zero_()
    assert same(dict(detector.state_dict()), dict(small.state_dict()))
