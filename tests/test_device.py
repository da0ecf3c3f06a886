"""nanogfl.data.device: what the device draws is what OpenCV draws on the CPU, from the same decisions."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from runs import Train, read_rows

from nanogfl.data.augment import Sample, decide, draw
from nanogfl.data.batch import DeferredBatch
from nanogfl.data.device import Store, collate_drawings
from nanogfl.data.loader import TrainingSet, training_loader
from nanogfl.data.order import EpochOrder, EvenBatches
from nanogfl.data.readers import read_table
from nanogfl.data.splits import select
from nanogfl.recipe import AugmentRecipe

CPU = torch.device("cpu")
SIZE = (64, 96)
SHAPES = [(80, 60), (50, 120), (120, 120), (33, 47), (90, 90)]
VARIED = AugmentRecipe(rotate=20, shear=5, flip_vertical=0.3, mosaic=0.5)


def smooth(shape: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Colours that change slowly, so that a 32nd of a pixel changes little, and a whole one is seen."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def both(recipe: AugmentRecipe, rule: str, count: int, quarters: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same decisions drawn by OpenCV and by the store."""
    pictures = [smooth(shape, i) for i, shape in enumerate(SHAPES)]
    store = Store(iter(pictures), len(pictures), (120, 120), CPU)
    rng = np.random.default_rng(7)
    varied, indices, drawn = [], [], []
    for _ in range(count):
        own = rng.integers(0, len(pictures), quarters if rng.random() < 0.7 else 1).tolist()
        samples = [Sample(pictures[i], np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool)) for i in own]
        made = decide(samples, SIZE, rule, recipe, rng)
        varied.append(made)
        indices.append(own)
        drawn.append(draw(made, [pictures[i] for i in own], SIZE))
    batch = store.draw(collate_drawings(indices, varied), SIZE)
    assert batch.dtype == torch.uint8
    return np.stack(drawn).astype(np.int64), batch.numpy().astype(np.int64)


@pytest.mark.parametrize("quarters", [1, 4])
@pytest.mark.parametrize("rule", ["stretch", "letterbox", "stretch-corner"])
@pytest.mark.parametrize("change", [{}, {"perspective": 0.2}], ids=["affine", "perspective"])
def test_the_device_draws_what_opencv_draws(change: dict[str, float], rule: str, quarters: int) -> None:
    expected, drawn = both(replace(VARIED, **change), rule, 24, quarters)
    apart = np.abs(expected - drawn)
    assert apart.mean() < 0.5  # of 255; half a pixel's shift makes it 3
    assert np.quantile(apart, 0.999) <= 16  # OpenCV's 1/32 px at the edges, where grey begins


def test_half_a_pixel_would_be_seen() -> None:
    expected, drawn = both(replace(VARIED, mosaic=0, brightness=0), "stretch", 24, 1)
    shifted = np.abs(expected[:, :, 1:] - drawn[:, :, :-1])
    assert shifted.mean() > 8 * np.abs(expected - drawn).mean()


def test_without_change_it_is_the_picture_itself() -> None:
    still = AugmentRecipe(
        scale=(1, 1), stretch=(1, 1), translate=0, flip=0, brightness=0, contrast=(1, 1), saturation=(1, 1)
    )
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    store = Store(iter([picture]), 1, (80, 100), CPU)
    empty = Sample(picture, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
    varied = decide([empty], SIZE, "stretch", still, np.random.default_rng(0))
    drawn = store.draw(collate_drawings([[0]], [varied]), SIZE)
    assert np.array_equal(drawn[0].numpy(), picture)


def test_colours_are_changed_alike() -> None:
    """All values at once, without geometry: the table, the grey and their roundings."""
    still = AugmentRecipe(scale=(1, 1), stretch=(1, 1), translate=0, flip=0, saturation=(0.1, 2), contrast=(0.3, 2))
    pictures = [np.random.default_rng(i).integers(0, 256, (64, 96, 3), dtype=np.uint8) for i in range(20)]
    store = Store(iter(pictures), 20, SIZE, CPU)
    rng = np.random.default_rng(1)
    empty = [Sample(p, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool)) for p in pictures]
    varied = [decide([one], SIZE, "stretch", still, rng) for one in empty]
    drawn = store.draw(collate_drawings([[i] for i in range(20)], varied), SIZE).numpy().astype(int)
    expected = np.stack([draw(v, [p], SIZE) for v, p in zip(varied, pictures, strict=True)]).astype(int)
    assert np.abs(drawn - expected).max() <= 2  # where grey is rounded the other way, twice that
    plain = [replace(v, tint=(*v.tint[:2], 1.0)) for v in varied]
    drawn = store.draw(collate_drawings([[i] for i in range(20)], plain), SIZE).numpy()
    expected = np.stack([draw(v, [p], SIZE) for v, p in zip(plain, pictures, strict=True)])
    np.testing.assert_array_equal(drawn, expected, "without grey")


@pytest.fixture(scope="module")
def loaders(tiny_set: Path) -> dict[str, list]:
    """Two epochs of the tiny set, drawn on the CPU and by the store; mosaics in both."""
    table, made = select(read_table(tiny_set), "train"), {}
    for cache in ("ram", "device"):
        dataset = TrainingSet(table, SIZE, "stretch", VARIED, seed=3, cache=cache)
        store = dataset.prepare(CPU)
        assert (store is None) == (cache == "ram") and len(dataset.pictures) == (len(table) if cache == "ram" else 0)
        order = EpochOrder(len(table), 3)
        loader = training_loader(dataset, EvenBatches(order, 8), workers=2 if cache == "device" else 0, pin=False)
        made[cache] = []
        for epoch in range(2):
            order.set_epoch(epoch)
            made[cache] += [b.drawn(store, SIZE) if isinstance(b, DeferredBatch) else b for b in loader]
    return made


def test_a_loader_of_decisions_gives_the_same_batches(loaders: dict[str, list]) -> None:
    assert len(loaders["ram"]) == len(loaders["device"]) == 6
    for one, two in zip(loaders["ram"], loaders["device"], strict=True):
        assert one.names == two.names
        for name in ("boxes", "labels", "valid", "crowd"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert (one.images.int() - two.images.int()).abs().float().mean() < 1.5  # hard edges of drawn things


def test_a_store_is_never_copied() -> None:
    store = Store(iter([smooth((8, 8), 0)]), 1, (8, 8), CPU)
    assert copy.deepcopy([store])[0] is store


def test_a_run_on_the_device_trains_as_on_the_cpu(tiny_set: Path, tiny_train: Train, tmp_path: Path) -> None:
    rows = []
    for cache in ("ram", "device"):
        settings = (
            f"train.cache={cache}",
            "augment.mosaic=0.5",
            "train.lr=1e-9",
            "train.lr_end=1e-9",
            "train.precision=32",
        )
        tiny_train(tiny_set, tmp_path / cache, *settings, epochs=2)
        rows.append([[float(row[part]) for part in ("qfl", "giou", "dfl")] for row in read_rows(tmp_path / cache)])
    assert np.allclose(*rows, rtol=0.05 if cv2.__version__ < "5" else 0.03)  # OpenCV 4 rounds more coarsely
