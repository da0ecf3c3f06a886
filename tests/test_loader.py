"""nanogfl.data.loader: which picture when, the same everywhere, and boxes that follow their pictures."""

from __future__ import annotations

import math
import multiprocessing
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest
import torch

from nanogfl import boxes as box_math
from nanogfl.data.augment import Sample
from nanogfl.data.batch import Batch, collate
from nanogfl.data.loader import (
    TrainingSet,
    reduce,
    reduced_augmentation,
    training_loader,
    view_loader,
)
from nanogfl.data.order import EpochOrder, EvenBatches, ResumableLoader, batches_an_epoch
from nanogfl.data.table import Example, Table
from nanogfl.errors import DataError
from nanogfl.pictures import read_picture, write_picture
from nanogfl.recipe import AugmentRecipe, TrainRecipe
from nanogfl.training.schedule import plan
from nanogfl.view import View

STILL = AugmentRecipe(
    scale=(1, 1), stretch=(1, 1), translate=0, flip=0, brightness=0, contrast=(1, 1), saturation=(1, 1)
)
SIZE = (64, 96)


def example(folder: Path, name: str, shape: tuple[int, int], box: list[int]) -> Example:
    """A dark noisy picture with one bright rectangle, written to disk."""
    picture = np.random.default_rng(len(name)).integers(0, 20, (*shape, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    picture[y1:y2, x1:x2] = 200
    write_picture(folder / name, picture)
    one = np.array([box], np.float64)
    area = np.array([(x2 - x1) * (y2 - y1)], np.float64)
    return Example(folder / name, name, shape[1], shape[0], one, np.array([0]), np.array([False]), area)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Nine pictures of unlike sizes."""
    folder = tmp_path_factory.mktemp("set")
    shapes = [(30 + 12 * i, 120 - 9 * i) for i in range(9)]
    made = [example(folder, f"{i:03}.png", s, [5, 6, s[1] // 2 + i, s[0] // 2]) for i, s in enumerate(shapes)]
    return Table(folder, "coco", ("a",), tuple(made))


def order(count: int, seed: int, epoch: int) -> list[tuple[int, int]]:
    made = EpochOrder(count, seed)
    made.set_epoch(epoch)
    assert len(made) == count
    return list(made)


def test_an_epoch_is_every_picture_once_in_an_order_of_its_own() -> None:
    first, again = order(50, 7, 3), order(50, 7, 3)
    assert first == again, "seed and epoch alone say the order"
    assert sorted(first) == [(3, i) for i in range(50)]
    assert [i for _, i in first] != list(range(50)), "shuffled"
    other_epoch, other_seed = order(50, 7, 4), order(50, 8, 3)
    assert [i for _, i in other_epoch] != [i for _, i in first]
    assert [i for _, i in other_seed] != [i for _, i in first]


def test_the_order_can_be_walked_twice() -> None:
    made = EpochOrder(10, 0)
    assert list(made) == list(made)


@pytest.mark.parametrize(
    ("count", "batch", "processes", "steps", "sizes", "reason"),
    [
        (205, 8, 1, 26, {7, 8}, "one more than would fit, and none of a few"),
        (200, 8, 1, 25, {8}, "even anyway"),
        (205, 8, 2, 13, {7, 8}, "two processes: 26 parts"),
        (7, 16, 1, 1, {7}, "fewer pictures than a batch: one smaller batch"),
        (5, 8, 4, 1, {1, 2}, "fewer than a batch for each process"),
        (4, 16, 4, 1, {1}, "one picture a process"),
        (31, 16, 1, 2, {15, 16}, "no batch is larger than the recipe's, for that is what memory holds"),
        (17, 16, 1, 2, {8, 9}, "no rest of one"),
        (5, 2, 1, 2, {2, 3}, "but where a rest of one cannot be spread, a batch takes it"),
        (3, 2, 1, 1, {3}, "the same"),
        (5, 8, 2, 1, {2, 3}, "two processes"),
        (5, 2, 2, 1, {2, 3}, "two processes, and a rest"),
        (9, 1, 1, 9, {1}, "batches of one"),
    ],
)
def test_batches_are_even(count: int, batch: int, processes: int, steps: int, sizes: set[int], reason: str) -> None:
    ranks = [list(EvenBatches(EpochOrder(count, 1), batch, rank, processes)) for rank in range(processes)]
    assert [len(r) for r in ranks] == [steps] * processes, reason
    assert {len(b) for r in ranks for b in r} == sizes, reason


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [3, 17, 31, 64, 205, 1000])
def test_ranks_share_an_epoch_without_gap_or_overlap(count: int, processes: int) -> None:
    for batch in (1, 8, 32):
        ranks = [EvenBatches(EpochOrder(count, 1), batch, rank, processes) for rank in range(processes)]
        seen = Counter(index for rank in ranks for part in rank for _, index in part)
        assert seen == Counter(range(count))
        assert len({len(r) for r in ranks}) == 1, "every process makes as many steps"
        assert all(part for rank in ranks for part in rank), "no step is empty"
        assert len(ranks[0]) == len(list(ranks[0]))
        assert len(ranks[0]) == plan(TrainRecipe(batch=batch), count, processes).steps_per_epoch


def test_no_batch_is_too_large_nor_alone() -> None:
    for batch in (2, 3, 8, 16, 96):
        for count in (*range(2, 130), 205, 118_287):
            steps = batches_an_epoch(count, batch)
            assert count / steps >= 2, "no batch norm sees a single picture"
            assert math.ceil(count / steps) <= max(batch, 3 if batch == 2 else 0)
            assert steps >= count // batch, "and no fewer steps than needed"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_pass_that_goes_on_is_the_rest_and_the_next_one_is_whole(processes: int) -> None:
    for rank in range(processes):
        batches = EvenBatches(EpochOrder(31, 1), 4, rank, processes)
        whole = list(batches)
        batches.first = 2
        assert list(batches) == whole[2:] and list(batches) == whole


def test_what_decides_the_batches_of_an_epoch_is_told() -> None:
    def cut(count: int = 9, seed: int = 1, batch: int = 4, tars: list[int] | None = None) -> dict[str, int]:
        return EvenBatches(EpochOrder(count, seed, None if tars is None else np.array(tars)), batch).layout()

    assert cut() == cut() and cut(tars=[0] * 9) == cut(tars=[0] * 9)
    others = [cut(count=8), cut(seed=2), cut(batch=3), cut(tars=[0] * 9), cut(tars=[0] * 8 + [1])]
    assert len({tuple(other.items()) for other in [cut(), *others]}) == 6


def test_a_loader_goes_on_within_an_epoch(table: Table) -> None:
    def loader(seed: int = 1) -> ResumableLoader:
        order = EvenBatches(EpochOrder(len(table), seed), 2)
        return training_loader(TrainingSet(table, SIZE, "stretch", STILL, seed=1), order, 0, pin=False)

    former, again = loader(), loader()
    taken = iter(former)
    names = [next(taken).names for _ in range(2)]
    again.load_state_dict(former.state_dict())
    for batch in again:
        names.append(batch.names)
        assert again.state_dict()["taken"] == len(names)
    assert names == [batch.names for batch in loader()]
    with pytest.raises(AssertionError):
        loader(seed=2).load_state_dict(former.state_dict())


def test_the_epoch_reaches_the_batches() -> None:
    sampler = EpochOrder(20, 0)
    batches = EvenBatches(sampler, 4)
    first = list(batches)
    sampler.set_epoch(1)
    assert {epoch for part in batches for epoch, _ in part} == {1}
    assert [i for part in batches for _, i in part] != [i for part in first for _, i in part]


def test_fewer_pictures_than_processes_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"^3 training pictures for 4 processes; use fewer devices$"):
        EvenBatches(EpochOrder(3, 0), 8, 0, 4)


def same(a: tuple[Sample, str], b: tuple[Sample, str]) -> bool:
    pairs = zip(vars(a[0]).values(), vars(b[0]).values(), strict=True)
    return a[1] == b[1] and all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("rule", ["stretch", "letterbox"])
def test_a_sample_follows_from_seed_epoch_and_index(table: Table, rule: str) -> None:
    recipe = AugmentRecipe(mosaic=0.5, rotate=5)
    kept = TrainingSet(table, SIZE, rule, recipe, seed=3, cache="ram")
    fresh = TrainingSet(table, SIZE, rule, recipe, seed=3, cache="none")
    kept.prepare(torch.device("cpu"))
    fresh.prepare(torch.device("cpu"))
    assert (len(kept.pictures), len(fresh.pictures), len(kept)) == (9, 0, 9)
    asked = [(epoch, index) for epoch in (0, 5) for index in range(9)]
    former = {key: fresh[key] for key in reversed(asked)}
    assert all(same(kept[key], former[key]) for key in asked), "memory and order of asking do not matter"
    assert all(former[key][1] == table.examples[key[1]].name for key in asked)
    assert not same(former[0, 4], former[5, 4]), "another epoch, another variation"
    other = TrainingSet(table, SIZE, rule, recipe, seed=4, cache="none")
    assert not same(other[0, 4], former[0, 4]), "another seed, another variation"


def test_worker_processes_change_nothing(table: Table) -> None:
    def epoch(workers: int) -> list[Batch]:
        dataset = TrainingSet(table, SIZE, "stretch", AugmentRecipe(mosaic=0.5), seed=1)
        return list(training_loader(dataset, EvenBatches(EpochOrder(len(table), 1), 2), workers, pin=False))

    alone, helped = epoch(0), epoch(2)
    assert [len(b.names) for b in alone] == [2, 2, 2, 3]
    for a, b in zip(alone, helped, strict=True):
        assert a.names == b.names
        for name in ("images", "boxes", "labels", "valid", "crowd"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_the_last_epochs_are_plainer(table: Table) -> None:
    recipe = AugmentRecipe(mosaic=1, scale=(0.5, 2), stretch=(0.8, 1.2), translate=0.2, flip=0.3)
    half = reduced_augmentation(recipe)
    assert (half.mosaic, half.translate) == (0, 0.1)
    np.testing.assert_allclose([half.scale, half.stretch], [(0.75, 1.5), (0.9, 1.1)])
    assert (half.flip, half.brightness) == (0.3, recipe.brightness), "the rest stays"
    dataset = TrainingSet(table, SIZE, "stretch", recipe, seed=1)
    dataset.reduced_from = 3
    plain = TrainingSet(table, SIZE, "stretch", half, seed=1)
    assert [same(dataset[epoch, 0], plain[epoch, 0]) for epoch in (2, 3, 4)] == [False, True, True]


@pytest.mark.parametrize(
    ("shape", "rule", "expected", "reason"),
    [
        ((480, 640), "stretch", (64, 96), "each side to its own limit"),
        ((40, 640), "stretch-antialias", (40, 96), "only the long side"),
        ((40, 60), "stretch", (40, 60), "small ones stay"),
        ((64, 96), "stretch", (64, 96), "just fits"),
        ((480, 640), "letterbox", (64, 85), "the letterbox keeps the aspect"),
        ((40, 640), "letterbox", (6, 96), "both sides, for the aspect"),
        ((40, 60), "letterbox-antialias", (40, 60), "small ones stay"),
        ((5000, 1), "letterbox", (64, 1), "never less than a pixel"),
    ],
)
def test_reduce_to_a_room_of_64_by_96(
    shape: tuple[int, int], rule: str, expected: tuple[int, int], reason: str
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    made = reduce(picture, SIZE, rule)
    assert made.shape == (*expected, 3), reason
    assert made.dtype == np.uint8
    np.testing.assert_allclose(made.mean(axis=(0, 1)), picture.mean(axis=(0, 1)), atol=1, err_msg="an average")
    assert (made is picture) == (shape == expected)


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        pytest.param((50, 70), "stretch", id="small"),
        pytest.param((600, 900), "stretch", id="reduced"),
        pytest.param((300, 40), "stretch", id="one side reduced"),
        pytest.param((600, 900), "letterbox", id="reduced, the input's own aspect"),
        pytest.param((600, 600), "letterbox", id="reduced, bars left and right"),
        pytest.param((200, 800), "letterbox", id="reduced, bars above and below"),
        pytest.param((50, 70), "letterbox", id="small, letterbox"),
    ],
)
def test_training_sees_a_picture_where_validation_does(tmp_path: Path, shape: tuple[int, int], rule: str) -> None:
    box = [shape[1] // 4, shape[0] // 4, shape[1] // 2, shape[0] * 3 // 4]
    one = Table(tmp_path, "coco", ("a",), (example(tmp_path, "a.png", shape, box),))
    sample, _ = TrainingSet(one, SIZE, rule, STILL, seed=0)[0, 0]
    seen = box_math.transform(np.array([box], np.float32), View(shape, SIZE, rule).matrix)
    np.testing.assert_allclose(sample.boxes, seen, atol=1e-4)
    x1, y1, x2, y2 = sample.boxes[0].round().astype(int)
    assert sample.picture[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 190, "bright inside"
    ring = sample.picture[y1 - 2 : y2 + 2, x1 - 2 : x2 + 2].astype(int)
    assert max(ring[0].max(), ring[-1].max(), ring[:, 0].max(), ring[:, -1].max()) < 120, "dark, or surround, outside"


def test_memory_is_used_as_the_recipe_says(table: Table) -> None:
    for cache, expected in (("ram", 9), ("auto", 9), ("none", 0)):
        dataset = TrainingSet(table, SIZE, "stretch", STILL, seed=0, cache=cache)
        dataset.prepare(torch.device("cpu"))
        assert len(dataset.pictures) == expected
        dataset[0, 0]
        assert len(dataset.pictures) == expected
    wide = AugmentRecipe(scale=(1, 1.2), stretch=(1, 1.1))
    assert TrainingSet(table, SIZE, "stretch", wide, seed=0).room == (84, 126), "1.32 times the input"
    assert TrainingSet(table, SIZE, "stretch", AugmentRecipe(scale=(1, 9)), seed=0).room == (96, 144), "at most 1.5"
    assert TrainingSet(table, SIZE, "stretch", AugmentRecipe(scale=(0.1, 0.5)), seed=0).room == SIZE, "at least 1"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than a small machine has cores
@pytest.mark.parametrize("short", [0, 1], ids=["just fits", "a byte short"])
def test_pictures_and_views_are_kept_where_memory_has_room(
    table: Table, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = len(table) * SIZE[0] * SIZE[1]
    monkeypatch.setattr("nanogfl.data.loader.CACHE_BYTES", 3 * pixels - short)
    monkeypatch.setattr("nanogfl.data.loader.VIEW_BYTES", 12 * pixels - short)
    dataset = TrainingSet(table, SIZE, "stretch", STILL, seed=0)
    dataset.prepare(torch.device("cpu"))
    views = view_loader(table.examples, SIZE, "stretch", 2, 3)
    assert len(dataset.pictures) == len(views.dataset.kept) == (0 if short else len(table))  # type: ignore[attr-defined]
    assert views.num_workers == (3 if short else 0), "what is read anew is read ahead"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("short", "workers"), [(0, 2), (1, 1)], ids=["just fits", "a byte short"])
def test_loader_processes_are_those_that_shared_memory_holds_batches_for(
    table: Table, short: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five batches of two pictures for two processes, and as much again for others: bytes to train, floats to view."""
    batch = 2 * SIZE[0] * SIZE[1]
    monkeypatch.setattr("nanogfl.data.loader.VIEW_BYTES", 0)
    dataset = TrainingSet(table, SIZE, "stretch", STILL, seed=0)
    batches = EvenBatches(EpochOrder(len(table), 1), 2)
    with_room = {3: lambda: training_loader(dataset, batches, 2, pin=False).num_workers}
    with_room[12] = lambda: view_loader(table.examples, SIZE, "stretch", 2, 2).num_workers
    for pixel_bytes, count in with_room.items():
        free = 10 * pixel_bytes * batch - short
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert count() == workers
    dataset.sizes = np.zeros((len(table), 2), np.int64)  # the device draws: pictures do not pass
    assert training_loader(dataset, batches, 2, pin=False).num_workers == 2


@pytest.fixture
def spawning() -> Iterator[None]:
    """Processes are started anew, unless somebody asks for something else."""
    former = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(former, force=True)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere forking is not safe")
def test_loader_processes_share_the_cache(table: Table, spawning: None) -> None:
    """Python starts processes by forkserver since 3.14, which would send each a copy of all pictures."""

    class Unsent(TrainingSet):
        def __reduce__(self) -> NoReturn:
            raise AssertionError("sent to a process")

    dataset = Unsent(table, SIZE, "stretch", STILL, seed=0)
    dataset.prepare(torch.device("cpu"))
    batches = list(training_loader(dataset, EvenBatches(EpochOrder(len(table), 1), 2), 1, pin=False))
    assert sorted(name for batch in batches for name in batch.names) == sorted(e.name for e in table.examples)


@pytest.mark.parametrize(("cache", "workers"), [("ram", 0), ("none", 1)])
def test_no_copy_of_the_cache_is_sent_to_processes_that_are_not_forked(
    table: Table, cache: str, workers: int, spawning: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS and Windows."""
    monkeypatch.setattr("nanogfl.data.loader.sys", SimpleNamespace(platform="darwin"))
    dataset = TrainingSet(table, SIZE, "stretch", STILL, seed=0, cache=cache)
    dataset.prepare(torch.device("cpu"))
    loader = training_loader(dataset, EvenBatches(EpochOrder(len(table), 1), 2), 1, pin=False)
    assert loader.num_workers == workers
    assert sorted(name for batch in loader for name in batch.names) == sorted(e.name for e in table.examples)


def test_a_missing_picture_is_a_data_error(table: Table) -> None:
    gone = Example(Path("gone.jpg"), "gone.jpg", 5, 5, np.zeros((0, 4)), *[np.zeros(0, int)] * 3)  # type: ignore[arg-type]
    dataset = TrainingSet(Table(table.root, "coco", ("a",), (gone,)), SIZE, "stretch", STILL, seed=0)
    with pytest.raises(DataError, match=r"^cannot read the picture gone\.jpg"):
        dataset.prepare(torch.device("cpu"))


def padded(counts: list[int], crowd: list[bool]) -> Batch:
    samples = []
    for i, count in enumerate(counts):
        boxes = np.arange(count * 4, dtype=np.float64).reshape(count, 4) + 100 * i
        picture = np.full((4, 6, 3), i, np.uint8)
        samples.append((Sample(picture, boxes, np.arange(count) + i, np.array(crowd[:count], bool)), f"{i}.jpg"))
    return collate(samples)


def test_collate_pads_to_the_fullest_picture_and_crowd_is_never_valid() -> None:
    batch = padded([2, 0, 3], [False, True, False])
    assert batch.valid.tolist() == [[True, False, False], [False] * 3, [True, False, True]]
    assert batch.crowd.tolist() == [[False, True, False], [False] * 3, [False, True, False]]
    assert batch.labels.tolist() == [[0, 1, 0], [0, 0, 0], [2, 3, 4]]
    assert batch.boxes[2].tolist() == [[200, 201, 202, 203], [204, 205, 206, 207], [208, 209, 210, 211]]
    assert batch.boxes[0, 2].tolist() == [0, 0, 0, 0]
    assert batch.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert batch.names == ["0.jpg", "1.jpg", "2.jpg"]
    assert (batch.images.dtype, batch.boxes.dtype, batch.labels.dtype) == (torch.uint8, torch.float32, torch.int64)


def test_room_for_more_boxes_is_padding_behind_them() -> None:
    batch = padded([2, 1], [False, True])
    wide = batch.with_room(5)
    for name in ("boxes", "labels", "valid", "crowd"):
        rows = getattr(wide, name)
        assert torch.equal(rows[:, :2], getattr(batch, name)) and rows.shape[1] == 5 and not rows[:, 2:].any()
    assert wide.images is batch.images and wide.names == batch.names


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_without_any_box_has_one_row_that_is_not_valid(count: int) -> None:
    batch = padded([0] * count, [])
    assert batch.boxes.shape == (count, 1, 4)
    assert not batch.valid.any()
    assert not batch.crowd.any()


def test_a_batch_moves_as_a_whole() -> None:
    batch = padded([2, 1], [False, False])
    moved = batch.to(torch.device("meta"))
    tensors = [v for v in vars(moved).values() if isinstance(v, torch.Tensor)]
    assert [t.device.type for t in tensors] == ["meta"] * 5
    assert moved.names == batch.names


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_views_are_shared_out_and_plain(table: Table, processes: int, workers: int) -> None:
    seen = []
    for rank in range(processes):
        for indices, images, shapes in view_loader(table.examples, SIZE, "letterbox", 2, workers, rank, processes):
            for index, image, shape in zip(indices, images, shapes, strict=True):
                given = table.examples[index]
                assert shape == (given.height, given.width)
                plain = View(shape, SIZE, "letterbox").apply(read_picture(given.path))
                np.testing.assert_array_equal(image, plain)
                seen.append(index)
    assert sorted(seen) == list(range(9)), "each picture once, over all processes"


def test_no_process_is_without_a_view(table: Table) -> None:
    """Where Lightning has nothing to validate, the others would wait for that process; seen twice, it counts once."""
    few = table.examples[:2]
    seen = [[i for indices, _, _ in view_loader(few, SIZE, "stretch", 2, 0, r, 3) for i in indices] for r in range(3)]
    assert seen == [[0], [1], [0]]
    assert len(view_loader([], SIZE, "stretch", 2, 0, 0, 1)) == 0


@pytest.mark.parametrize(("before", "reported"), [("pass", True), ("init_worker(0)", False)])
def test_a_main_process_that_leaves_while_it_fetches_a_batch_is_no_error(before: str, reported: bool) -> None:
    code = f"""
from multiprocessing import process, resource_sharer
from multiprocessing.connection import Client
from nanogfl.data.loader_process import init_worker
{before}
address, _ = resource_sharer.DupFd(0)._id
Client(address, authkey=process.current_process().authkey).close()
resource_sharer.stop(timeout=5)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and ("EOFError" in ended.stderr) == reported, ended.stderr


def test_other_errors_of_a_loader_process_are_reported() -> None:
    code = """
from nanogfl.data.loader_process import init_worker
init_worker(0)
raise ValueError("a defect")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stderr.endswith("ValueError: a defect\n")
