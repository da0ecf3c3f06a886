"""Every row of the paper's ablation, every family and both assignments are recipe keys that train and load again."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import random_detector
from oracles.layouts import torchvision_resnet

import nanogfl
from nanogfl.errors import ModelError, RecipeError, UsageError
from nanogfl.model.detector import Architecture, Detector
from nanogfl.model.weights import read_weights
from nanogfl.predictor import TorchDetector
from nanogfl.recipe import LossRecipe, load_recipe
from nanogfl.training.folder import Folder
from nanogfl.training.objective import Targets, assign, head_loss
from nanogfl.training.resume import resumed_recipe, saved_state
from nanogfl.training.start import start

Train = Callable[..., dict[str, Any]]

RUNS = {
    "focal loss, Dirac": (["loss.classes=focal", "model.sides=dirac"], {"focal", "giou"}),
    "QFL, Dirac": (["model.sides=dirac"], {"qfl", "giou"}),
    "QFL, DFL, DGQP": (["model.quality=top4", "model.guidance=light"], {"qfl", "dfl", "giou", "guide_qfl"}),
    "the first NanoDet as the paper trains it": (
        ["model.family=first", "model.separate_sides=true", "loss.assign=atss"],
        {"qfl", "dfl", "giou"},
    ),
}
HEAVY = (["model.family=resnet", "loss.assign=atss", "loss.anchor=8"], {"qfl", "dfl", "giou"})


@pytest.mark.parametrize(
    ("assignments", "parts"), [*RUNS.values(), pytest.param(*HEAVY, marks=pytest.mark.slow)], ids=[*RUNS, "ResNet-18"]
)
def test_rows_train(assignments: list[str], parts: set[str], tiny_set: Path, tmp_path: Path, tiny_train: Train) -> None:
    tiny_train(tiny_set, tmp_path / "run", *assignments)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert {k for k in row if k.split("_")[-1] in ("focal", "qfl", "dfl", "giou") and float(row[k]) > 0} >= parts
    loaded = nanogfl.load(tmp_path / "run" / "best.ckpt")
    assert isinstance(loaded, TorchDetector)
    architecture = loaded.card.architecture
    assert (architecture.reg_max == 0) == ("model.sides=dirac" in assignments)
    assert architecture.separate_sides == ("model.separate_sides=true" in assignments)
    assert architecture.reg_max in (0, 16 if architecture.family == "resnet" else 7)


def start_of(*assignments: str, init: object = "none") -> Any:
    return start(load_recipe(None, assignments, {"init": str(init)}), ("a", "b"))


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ([], Architecture("m", 2)),
        (["model.family=first", "model.size=s"], Architecture("s", 2, family="first")),
        (["model.family=resnet"], Architecture("m", 2, 16, family="resnet")),
        (["model.family=resnet", "model.reg_max=8", "model.size=s"], Architecture("s", 2, 8, family="resnet")),
        (["model.sides=dirac", "model.size=s"], Architecture("s", 2, 0)),
        (["model.separate_sides=true", "model.size=s"], Architecture("s", 2, separate_sides=True)),
    ],
)
def test_keys_give_the_network(assignments: list[str], expected: Architecture) -> None:
    assert start_of(*assignments).card.architecture == expected


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["model.sides=dirac", "model.quality=top4"], "set model.quality=none"),
        (["model.sides=dirac", "model.reg_max=8"], "omit model.reg_max"),
        (["model.reg_max=2"], "model.reg_max must be between 3 and 64"),
        (["model.family=resnet", "model.separate_sides=true"], "omit both keys"),
        (["model.family=second"], "model.family"),
        (["loss.classes=bce"], "loss.classes"),
        (["loss.temperature=0"], "loss.temperature must be above 0"),
        (["loss.anchor=-1"], "loss.anchor must be above 0"),
        (["loss.teach_sides=-1"], "loss.teach_sides must be a number of at least 0"),
    ],
)
def test_what_contradicts_itself_is_refused(assignments: list[str], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        load_recipe(None, assignments)


@pytest.mark.parametrize("kind", ["full", "light"])
def test_guidance_is_for_nanodet_plus(kind: str) -> None:
    with pytest.raises(RecipeError, match=f"model.guidance={kind} requires family plus, not first"):
        start_of("model.family=first", "model.size=s", f"model.guidance={kind}")


def test_a_resnets_imagenet_file_is_its_backbone(tmp_path: Path) -> None:
    state = torchvision_resnet((2, 2, 2, 2), bottleneck=False)
    torch.save(state, tmp_path / "resnet18.pth")
    begin = start_of("model.family=resnet", init=tmp_path / "resnet18.pth")
    assert begin.card.architecture.size == "s"
    own = begin.detector.state_dict()
    assert torch.equal(own["backbone.conv1.0.weight"], state["conv1.weight"].flip(1))  # it reads RGB, ours BGR
    assert torch.equal(own["backbone.layer3.1.branch.3.weight"], state["layer3.1.conv2.weight"])
    assert torch.equal(own["backbone.layer2.0.shortcut.1.running_var"], state["layer2.0.downsample.1.running_var"])
    loaded = {k for k in read_weights(tmp_path / "resnet18.pth").state if not k.endswith("tracked")}
    assert loaded == {k for k in own if k.startswith("backbone.") and not k.endswith("tracked")}
    with pytest.raises(ModelError, match=r"is a ResNet backbone; set model\.family=resnet"):
        start_of(init=tmp_path / "resnet18.pth")


def test_a_bottleneck_file_is_resnet_50(tmp_path: Path) -> None:
    state = torchvision_resnet((3, 4, 6, 3), bottleneck=True)
    torch.save(state, tmp_path / "resnet50.pth")
    begin = start_of("model.family=resnet", init=tmp_path / "resnet50.pth")
    assert begin.card.architecture.size == "l"
    assert torch.equal(begin.detector.state_dict()["backbone.layer4.2.branch.6.weight"], state["layer4.2.conv3.weight"])


def test_published_first_nanodet_is_recognised(shared: Path) -> None:
    loaded = nanogfl.load(shared / "weights" / "nanodet-m_320.ckpt")
    assert isinstance(loaded, TorchDetector)
    assert loaded.card.architecture == Architecture("m", 80, family="first")
    assert loaded.card.resize == "letterbox" and loaded.input_size == (320, 320)
    init = {"init": str(shared / "weights" / "nanodet-m_320.ckpt")}
    begin = start(load_recipe(options=init), ("person", "axolotl"))
    own, theirs = begin.detector.state_dict(), loaded.network.state_dict()
    assert torch.equal(own["neck.lateral.1.weight"], theirs["neck.lateral.1.weight"])
    assert torch.equal(own["head.predict.2.weight"][0], theirs["head.predict.2.weight"][0])  # person
    assert torch.equal(own["head.predict.2.weight"][2:], theirs["head.predict.2.weight"][80:])  # sides


@pytest.mark.parametrize("architecture", [Architecture("s", 2, family="first"), Architecture("s", 2, 0)])
def test_the_box_of_a_prior_is_learnt_from_where_it_stands(architecture: Architecture) -> None:
    """Gradient steps on one box: its priors' boxes reach it, wherever priors lie, however sides are said."""
    detector = Detector(architecture)
    priors, levels = detector.priors(64, 96)
    truth = torch.tensor([[[10.0, 12.0, 50.0, 44.0]]])
    targets = Targets(truth, torch.tensor([[1]]), torch.tensor([[True]]), torch.tensor([[False]]))
    raw = torch.zeros(1, len(priors), 2 + 4 * (architecture.reg_max + 1), requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.1)
    recipe = LossRecipe(assign="atss")
    for _ in range(200):
        given = assign(recipe, raw, priors, levels, targets, architecture.reg_max)
        parts = head_loss(raw, priors, targets, given, LossRecipe(), reg_max=architecture.reg_max)
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        optimizer.step()
    assert ("dfl" in parts) == (architecture.reg_max > 0)
    assert (given.gt_index >= 0).sum() >= 3
    assert given.quality[given.gt_index >= 0].min() > 0.95


def test_a_separate_branch_does_not_disturb_the_other() -> None:
    detector = random_detector(Architecture("s", 3, family="first", separate_sides=True))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    raw = detector(images)
    raw[..., 3:].sum().backward()

    def moved(part: torch.nn.Module) -> bool:
        return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())

    assert moved(detector.head.side_towers) and moved(detector.head.measure)  # type: ignore[arg-type]
    assert not moved(detector.head.towers) and not moved(detector.head.predict)  # type: ignore[arg-type]


GUIDED = "model.guidance=light"  # as tiny_run was trained


def test_a_resumed_run_keeps_what_its_recipe_leaves_open(tiny_run: Path) -> None:
    names, last = nanogfl.load(tiny_run / "best.ckpt").names, saved_state(Folder(tiny_run, resume=True), {})
    assert last is not None
    model = resumed_recipe(load_recipe(None, [GUIDED]), last, tuple(names)).model
    assert (model.size, model.family, model.reg_max, model.sides) == ("s", "plus", 7, "distribution")
    for change in ("sides=dirac", "family=first", "reg_max=8", "separate_sides=true", "guidance=none"):
        with pytest.raises(UsageError, match=rf"model\.{change.split('=')[0]} cannot change within a run"):
            resumed_recipe(load_recipe(None, [GUIDED, f"model.{change}"]), last, tuple(names))


@pytest.mark.slow
def test_the_ablation_goes_on_where_it_was(tiny_set: Path, tmp_path: Path) -> None:
    results = tmp_path / "ablation.json"
    small = ["--set", "train.epochs=1", "--set", "input.size=64", "--set", "model.size=s", "--results", results]
    script = Path(__file__).parents[1] / "docs" / "ablation.py"
    said = [
        subprocess.run(
            [sys.executable, script, tiny_set, "--rows", "Dirac", "--seeds", seeds, *small],
            capture_output=True, text=True, check=True,
        ).stdout
        for seeds in ("0", "0,1")
    ]  # fmt: skip
    records = json.loads(results.read_text())
    assert [(r["data"], r["init"], r["row"], r["seed"]) for r in records] == [
        ("set", "none", "focal loss, Dirac box", seed) for seed in (0, 1)
    ]
    assert "| focal loss, Dirac box | 2 |" in said[1]
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
