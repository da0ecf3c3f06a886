"""A step on several cores: the gradients of the whole batch, weights shared, errors and NaN as in one piece."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import quick, read_rows, weights
from torch import Tensor, nn

import nanogfl
from nanogfl.data.batch import Batch
from nanogfl.errors import TrainingError
from nanogfl.model.dense import interleave, join, reshuffle
from nanogfl.recipe import load_recipe
from nanogfl.training.cores import Cores, MeanBarrier, Networks, average, parts_for, replica
from nanogfl.training.gradients import gradients_of, with_gradients
from nanogfl.training.keeper import Keeper
from nanogfl.training.objective import WHOLE, Share
from nanogfl.training.schedule import plan
from nanogfl.training.start import start
from nanogfl.training.task import DetectionTask

LAST = torch.channels_last


def batch(count: int, side: int = 64) -> Batch:
    """Noise with one to three boxes a picture, a crowd in the first."""
    random = torch.Generator().manual_seed(3)
    corner = torch.rand(count, 3, 2, generator=random) * side * 0.6
    boxes = torch.cat([corner, corner + 6 + torch.rand(count, 3, 2, generator=random) * side * 0.3], dim=2)
    valid = torch.arange(3) <= (torch.arange(count) % 3)[:, None]
    crowd = torch.zeros_like(valid)
    crowd[0, 2] = True
    images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=random)
    labels = torch.randint(0, 2, (count, 3), generator=random)
    return Batch(images, boxes, labels, valid, crowd, [f"{i}.png" for i in range(count)])


def task(*assignments: str) -> DetectionTask:
    """A small detector on its way to train."""
    torch.manual_seed(0)
    recipe = load_recipe(None, ["model.size=s", "input.size=64", "init=none", *assignments])
    begin = start(recipe, ("a", "b"))
    return DetectionTask(begin.detector, begin.guidance, begin.card, recipe, plan(recipe.train, 64, 1, begin.trained))


def gradients(total: Tensor, made: DetectionTask) -> dict[str, Tensor]:
    made.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("guidance", "count"), [("none", 9), ("light", 16), ("full", 8)])
def test_the_step_is_that_of_the_whole_batch(guidance: str, count: int) -> None:
    made = task(f"model.guidance={guidance}").double()
    made.eval()  # batch norm apart, which sees its own part
    whole = batch(count)
    parts = made.losses(made, whole, WHOLE)
    expected = gradients(torch.stack(list(parts.values())).sum(), made)

    cores = Cores(Networks(made.detector, made.guidance), 3)
    spread = cores.losses(whole.split(3), made.losses, WHOLE)
    found = gradients(torch.stack(list(spread.values())).sum(), made)
    assert spread.keys() == parts.keys()
    for name, value in parts.items():
        assert spread[name].item() == pytest.approx(value.item(), rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-6), name


def test_processes_of_unequal_size_make_the_step_of_all() -> None:
    """Seven pictures: one process has four, in two parts, the other three, which are not cut."""
    made = task().double()
    made.eval()
    whole = batch(7)
    parts = made.losses(made, whole, WHOLE)
    expected = gradients(torch.stack(list(parts.values())).sum(), made)
    barrier = MeanBarrier(2, 2, lambda mean: mean)
    own = [Batch(**{name: value[rows] for name, value in vars(whole).items()}) for rows in (slice(4), slice(4, 7))]

    def process(rank: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        mine = copy.deepcopy(made)
        cores = Cores(Networks(mine.detector, mine.guidance), 2)
        share = Share(lambda value: barrier.mean(rank, value), 2)
        found = cores.losses(own[rank].split(2), mine.losses, share)
        return found, gradients(torch.stack(list(found.values())).sum(), mine)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(process, range(2))
    for name, value in parts.items():
        assert ((one[0][name] + two[0][name]) / 2).item() == pytest.approx(value.item(), rel=1e-5)
    for name, gradient in expected.items():
        assert torch.allclose((one[1][name] + two[1][name]) / 2, gradient, rtol=1e-3, atol=1e-6), name


def test_parts_compute_as_the_run_does() -> None:
    """bf16 is each thread's own affair: it must be told."""
    made, seen = task(), list[torch.dtype]()
    cores = Cores(Networks(made.detector, made.guidance), 2)
    for one in cores.replicas:
        one.detector.head.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        losses = cores.losses(batch(8).split(2), made.losses, WHOLE)
    assert seen == [torch.bfloat16] * 2 and {part.dtype for part in losses.values()} == {torch.float32}


def test_parts_share_weights_and_keep_their_own_statistics() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    other = replica(module)
    assert all(a is b for a, b in zip(module.parameters(), other.parameters(), strict=True))
    before = module[1].running_mean.clone()
    other(torch.ones(2, 3, 4, 4))
    assert torch.equal(module[1].running_mean, before)
    assert not torch.equal(other[1].running_mean, before)


def test_a_frozen_part_stays_frozen_on_every_core() -> None:
    made = task("train.freeze=backbone")
    made.train()
    cores = Cores(Networks(made.detector, made.guidance), 2)
    made.detector.backbone.eval()
    cores.losses(batch(8).split(2), made.losses, WHOLE)
    first, second = (one.detector.backbone.state_dict() for one in cores.replicas)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(p is q for p in cores.parameters for q in made.detector.backbone.parameters())


def test_an_error_in_one_part_is_the_error_of_the_step() -> None:
    def loss(_: nn.Module, piece: int, share: Share) -> dict[str, Tensor]:
        if piece == 1:
            raise ValueError("piece 1 is bad")
        return {"a": share.mean(torch.ones(()))}  # the others wait here

    with pytest.raises(ValueError, match="piece 1 is bad"):
        Cores(nn.Linear(1, 1), 3).losses([0, 1, 2], loss, WHOLE)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_gradients_that_are_known_are_scaled_by_what_comes_back(factor: float) -> None:
    """A step of several batches takes a part of the loss of each; what takes no part in it has no gradient."""
    used, idle = nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.ones(3))
    parts = {"a": (used**2).sum(), "b": (3 * used).sum()}
    known = gradients_of(parts, [used, idle])
    assert known[1] is None
    made = with_gradients({name: part.detach() for name, part in parts.items()}, known, [used, idle])
    assert {name: part.item() for name, part in made.items()} == {"a": 5.0, "b": -3.0}
    (torch.stack(list(made.values())).sum() * factor).backward()
    assert used.grad is not None and used.grad.tolist() == [5 * factor, -1 * factor] and idle.grad is None


def test_average_counts_a_missing_gradient_as_zero() -> None:
    one, two = torch.tensor([2.0]), torch.tensor([4.0])
    assert average([(one, one, None), (two, None, None)], 2) == [torch.tensor([3.0]), torch.tensor([1.0]), None]


@pytest.mark.parametrize(
    ("pictures", "threads", "parts"), [(16, 2, 2), (15, 2, 1), (8, 8, 1), (64, 4, 4), (1, 1, 1), (32, 64, 4)]
)
def test_each_part_is_large_enough_for_batch_norm(pictures: int, threads: int, parts: int) -> None:
    assert parts_for(pictures, threads) == parts


@pytest.mark.parametrize(("count", "parts", "expected"), [(1, 2, [1]), (3, 2, [3]), (4, 2, [2, 2]), (5, 3, [2, 3])])
def test_no_part_is_left_with_a_single_picture(count: int, parts: int, expected: list[int]) -> None:
    rows = torch.arange(count)
    batch = Batch(rows, rows, rows, rows, rows, [str(i) for i in range(count)])
    assert [len(piece.names) for piece in batch.split(parts)] == expected


def test_a_cut_batch_loses_nothing() -> None:
    whole = batch(7)
    pieces = whole.split(3)
    assert [len(p.names) for p in pieces] == [2, 2, 3]
    assert torch.equal(torch.cat([p.images for p in pieces]), whole.images)
    assert [name for piece in pieces for name in piece.names] == whole.names
    assert [len(p.names) for p in batch(3).split(3)] == [3]  # none is left with a single picture


@pytest.mark.parametrize("memory", [LAST, torch.contiguous_format])
def test_dense_operators_equal_the_plain_ones_both_ways(memory: torch.memory_format) -> None:
    a, b = (torch.randn(2, 4, 3, 5).to(memory_format=memory).requires_grad_() for _ in range(2))

    def plain(a: Tensor, b: Tensor) -> Tensor:
        mixed = torch.cat([a, b], dim=1)
        shuffled = mixed.view(2, 2, 4, 3, 5).transpose(1, 2).reshape(2, 8, 3, 5)
        first, second = shuffled.chunk(2, dim=1)
        return torch.cat([first * 2, second, a], dim=1)

    def dense(a: Tensor, b: Tensor) -> Tensor:
        first, second = reshuffle(a, b)
        return join(first * 2, second, a)

    weight = torch.randn(2, 12, 3, 5)
    for one, other in zip(
        torch.autograd.grad((plain(a, b) * weight).sum(), (a, b)),
        torch.autograd.grad((dense(a, b) * weight).sum(), (a, b)),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert torch.equal(plain(a, b), dense(a, b))


def test_a_shuffle_and_its_halves_are_the_same_channels_both_ways() -> None:
    a, b = (torch.randn(2, 6, 3, 5).to(memory_format=LAST).requires_grad_() for _ in range(2))
    whole, made = interleave(a, b), torch.cat(reshuffle(a, b), dim=1)
    assert torch.equal(made, whole) and whole.is_contiguous(memory_format=LAST)
    assert [whole[0, i, 0, 0].item() for i in range(4)] == [x[0, i, 0, 0].item() for i in (0, 1) for x in (a, b)]
    weight = torch.randn(whole.shape)
    for one, other in zip(*(torch.autograd.grad((x * weight).sum(), (a, b)) for x in (whole, made)), strict=True):
        assert torch.equal(one, other)


def test_gradients_stay_dense_on_their_way_back() -> None:
    found: list[bool] = []
    a, b = (torch.randn(2, 4, 3, 5).to(memory_format=LAST).requires_grad_() for _ in range(2))
    for part in (a, b):
        part.register_hook(lambda g: found.append(g.is_contiguous(memory_format=LAST)))
    first, second = reshuffle(a, b)
    join(interleave(second, first), first).square().sum().backward()
    assert found == [True, True]


def test_a_run_on_two_cores_is_reproducible_and_learns_as_on_one(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {}
    for name, parts in (("one", 1), ("two", 2), ("again", 2)):
        monkeypatch.setattr("nanogfl.training.task.parts_for", lambda *_, parts=parts: parts)
        quick(tiny_set, tmp_path / name, input=96, epochs=2, batch=16)
        losses[name] = [float(row["qfl"]) for row in read_rows(tmp_path / name)]
    assert losses["two"] == losses["again"]
    assert losses["two"] != losses["one"]  # batch norm sees its part
    assert losses["two"] == pytest.approx(losses["one"], rel=0.1)
    original = Keeper.on_train_epoch_start

    def fail(self: Keeper, trainer: Any, module: Any) -> None:
        original(self, trainer, module)
        if trainer.current_epoch == 1:
            raise RuntimeError

    with monkeypatch.context() as patched, pytest.raises(TrainingError):
        patched.setattr(Keeper, "on_train_epoch_start", fail)
        quick(tiny_set, tmp_path / "cut", input=96, epochs=2, batch=16)
    nanogfl.train(tiny_set, out=tmp_path / "cut", resume=True)
    assert [float(row["qfl"]) for row in read_rows(tmp_path / "cut")] == losses["two"]
    ours, theirs = weights(tmp_path / "cut" / "best.ckpt"), weights(tmp_path / "two" / "best.ckpt")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
