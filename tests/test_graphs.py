"""nanogfl.training.graphs: nothing in a step waits for the device, padding changes no loss; a GPU replays steps."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from nanogfl.data.batch import Batch
from nanogfl.recipe import load_recipe
from nanogfl.training.graphs import Graphs, compiled, room
from nanogfl.training.hardware import COMPILES
from nanogfl.training.objective import WHOLE, Targets, assign, head_loss, supervise
from nanogfl.training.schedule import plan
from nanogfl.training.start import start
from nanogfl.training.task import DetectionTask
from nanogfl.training.teacher import Teacher
from nanogfl.view import normalise

ROWS = {
    "default": [],
    "focal, dirac": ["loss.classes=focal", "model.sides=dirac"],
    "top 4": ["model.quality=top4"],
    "moments": ["model.quality=moments"],
    "atss, sides apart": ["loss.assign=atss", "model.separate_sides=true"],
    "light guidance": ["model.guidance=light"],
    "full guidance": ["model.guidance=full"],
    "resnet": ["model.family=resnet", "model.size=s"],
    "first": ["model.family=first"],
}
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique")


class Waiting(TorchDispatchMode):
    """Notes the operators that make a CPU wait for a GPU, or that a graph cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(
            t is not None and t.dtype == torch.bool for a in args if isinstance(a, list) for t in a
        )
        if name.startswith(WAITS) or masks:
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


def made(settings: list[str], taught: bool = False) -> DetectionTask:
    torch.manual_seed(0)
    options = {"input.size": "64", "train.batch": 3, "init": "none"}
    recipe = load_recipe(None, ["model.size=s", *settings], options)
    begin = start(recipe, ("a", "b", "c"))
    teacher = Teacher(start(recipe, ("a", "b", "c")).detector, [0, 1, 2], (8, 16, 32, 64)) if taught else None
    return DetectionTask(begin.detector, begin.guidance, begin.card, recipe, plan(recipe.train, 9), teacher)


def batch() -> Batch:
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=random)
    boxes = torch.tensor([[[4.0, 4, 40, 30], [20, 10, 60, 62]], [[0, 0, 64, 64], [5, 5, 25, 25]], [[0, 0, 0, 0]] * 2])
    labels = torch.tensor([[0, 1], [2, 0], [0, 0]])
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    crowd = torch.tensor([[False, False], [False, True], [False, False]])
    return Batch(images, boxes, labels, valid, crowd, ["a.jpg", "b.jpg", "c.jpg"])


def learn(task: DetectionTask, given: Batch) -> dict[str, float]:
    parts = task.losses(task, given, WHOLE)
    torch.stack(list(parts.values())).sum().backward()
    return {name: part.item() for name, part in parts.items()}


@pytest.mark.parametrize("row", [*ROWS, "teacher"])
def test_nothing_in_a_step_waits_for_the_device(row: str) -> None:
    task = made(ROWS.get(row, []), row == "teacher")
    with Waiting() as found:
        parts = task.losses(task, batch(), WHOLE)
        torch.stack(list(parts.values())).sum().backward()
    assert not found.seen


def test_waiting_would_be_seen() -> None:
    with Waiting() as found:
        x = torch.arange(4.0)
        _ = float(x.sum()), x[x > 1]
    assert {"_local_scalar_dense", "index"} <= found.seen


def test_padding_changes_no_loss_and_no_gradient() -> None:
    task, other = made([]), made([])
    assert learn(task, batch()) == pytest.approx(learn(other, batch().with_room(8)))
    for one, two in zip(task.parameters(), other.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, atol=1e-6)


@pytest.mark.skipif(torch.__version__ < COMPILES, reason=f"compiles from torch {COMPILES} on")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of the tracer's own looking
@pytest.mark.parametrize("row", ["default", "resnet", "frozen"])
def test_a_compiled_network_learns_the_same(row: str) -> None:
    """As torch.compile traces it, without the compiler's kernels, which need a GPU to be worth their time."""
    settings = ["train.freeze=backbone"] if row == "frozen" else ROWS[row]
    task, other = made(settings), made(settings)
    torch._dynamo.reset()
    counters.clear()
    compiled(task)  # this version of torch knows the options
    task.fused = compiled(task, backend="aot_eager")
    names = list(task.state_dict())
    parts = task.accelerated_losses(batch(), WHOLE)
    torch.stack(list(parts.values())).sum().backward()
    assert counters["stats"]["unique_graphs"] == 3 and not counters["graph_break"]
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(learn(other, batch()), rel=1e-4)
    for one, two in zip(task.parameters(), other.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None) == (not one.requires_grad)
        if one.grad is not None and two.grad is not None:
            assert torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-4)
    assert list(task.state_dict()) == names == list(other.state_dict())
    copy.deepcopy(task)  # as averaging does


@pytest.mark.skipif(torch.__version__ < COMPILES, reason=f"compiles from torch {COMPILES} on")
@pytest.mark.parametrize("row", ["default", "focal, dirac", "atss, sides apart", "light guidance"])
def test_compiled_losses_are_the_same(row: str) -> None:
    task, given = made(ROWS[row]), batch().with_room(8)
    targets = Targets(given.boxes, given.labels, given.valid, given.crowd)
    width = 3 + 4 * (task.card.architecture.reg_max + 1)
    random = torch.Generator().manual_seed(2)
    raws = [torch.randn(3, len(task.priors), width, generator=random).requires_grad_() for _ in range(2)]
    guide = raws[1] if task.guidance is not None else None
    arguments = (task.recipe.loss, raws[0], guide, task.priors, task.levels, targets, task.card.architecture.reg_max)
    torch._dynamo.reset()
    counters.clear()
    made_of = [make(*arguments) for make in (supervise, torch.compile(supervise, dynamic=False, backend="aot_eager"))]
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    plain, traced = ({name: part.item() for name, part in parts.items()} for parts in made_of)
    assert traced == pytest.approx(plain, rel=1e-5)
    assert ("guide_qfl" in plain) == (guide is not None)
    read = raws if guide is not None else raws[:1]
    one, two = (torch.autograd.grad(torch.stack(list(parts.values())).sum(), read) for parts in made_of)
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7) and a.abs().sum() > 0


def test_pictures_are_normalised_as_everywhere() -> None:
    """Rows at once, to the bit what the deployed side does a channel at a time; a picture need not be square."""
    images = torch.randint(0, 256, (2, 48, 80, 3), dtype=torch.uint8)
    expected = torch.from_numpy(np.stack([normalise(image.numpy().astype(np.float32)) for image in images]))
    assert torch.equal(made([]).normalise(images), expected)


def test_what_was_recorded_before_a_change_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which graphs are kept, without a GPU: one for each shape; all begin anew where what they depend on changes."""
    recorded: list[tuple[int, object]] = []

    class Noted:
        def __init__(self, step: Any, given: Batch, modules: Any, pool: object) -> None:
            recorded.append((given.boxes.shape[1], pool))

        def replay(self, given: Batch) -> Any:
            return {"qfl": torch.ones(())}, [None]

    monkeypatch.setattr("nanogfl.training.graphs.Recording", Noted)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    graphs = Graphs(torch.nn.Linear(1, 1), lambda given: {})
    for state, room_for in ((False, 2), (False, 3), (False, 9), (True, 2), (True, 9)):
        graphs.losses(batch().with_room(room_for), state)
    assert [rows for rows, _ in recorded] == [8, 16, 8, 16]
    pools = [pool for _, pool in recorded]
    assert pools[0] is pools[1] is not pools[2] is pools[3], "graphs of one pool share its memory"
    assert len(graphs.recorded) == 2


@pytest.mark.parametrize(
    ("epoch", "part", "epochs", "late"),
    [(0, 0.1, 20, False), (1, 0.1, 20, False), (2, 0.1, 20, True), (0, 0, 20, True)],
)
def test_guidance_is_detached_after_its_part_of_the_run(
    epoch: int, part: float, epochs: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = made(["model.guidance=full", f"train.detach_guidance={part}", f"train.epochs={epochs}"])
    monkeypatch.setattr(DetectionTask, "current_epoch", epoch)
    guided = task.losses(task, batch(), WHOLE)["guide_qfl"]
    (gradient,) = torch.autograd.grad(guided, task.detector.backbone.conv1[0].weight, allow_unused=True)
    assert (gradient is None) == late


def test_long_gradients_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    task = made(["train.clip=2"])
    monkeypatch.setattr(DetectionTask, "_mean", lambda self, total: total)
    parameters = list(task.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 7.0)
    task.configure_gradient_clipping(task.configure_optimizers()["optimizer"])
    assert torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().item() == pytest.approx(
        2, rel=1e-5
    )


def test_losses_are_made_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = made([]), []
    monkeypatch.setattr(
        "nanogfl.training.objective.head_loss", lambda *given: seen.append(enabled()) or head_loss(*given)
    )

    def enabled() -> bool:
        return torch.is_autocast_enabled("cpu")

    with torch.autocast("cpu", torch.bfloat16):
        choose = partial(supervise, choose=lambda *given: seen.append(enabled()) or assign(*given))
        task.losses(task, batch(), WHOLE, choose)
    assert seen == [False, False]


def test_room_is_a_power_of_two() -> None:
    assert [room(n) for n in (1, 8, 9, 16, 17, 100)] == [8, 8, 16, 16, 32, 128]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("row", [*ROWS, "teacher"])
def test_a_replayed_step_is_the_step_itself(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    task = made(ROWS.get(row, []), row == "teacher").cuda().train()
    if task.teacher is not None:
        task.teacher.to(torch.device("cuda"))
    other = copy.deepcopy(task)
    graphs = Graphs(other, lambda given: other.losses(other, given, WHOLE))
    for _ in range(2):  # the second is replayed only
        expected = learn(task, batch().to(torch.device("cuda")))
        parts = graphs.losses(batch().to(torch.device("cuda")), False)
        torch.stack(list(parts.values())).sum().backward()
        assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-5)
    assert len(graphs.recorded) == 1
    for one, two in zip(task.parameters(), other.parameters(), strict=True):
        if one.grad is not None:
            assert two.grad is not None and torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-5)
    for one, two in zip(task.buffers(), other.buffers(), strict=True):
        assert torch.allclose(one, two, rtol=1e-5), "batch statistics count the warm-up"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("graphs", "fused"), [(True, False), (False, False), (True, True), (False, True)])
def test_a_run_on_a_gpu_finds_what_was_drawn(graphs: bool, fused: bool, tmp_path: Path) -> None:
    import nanogfl
    from nanogfl.data.synthetic import draw_set

    data = draw_set(tmp_path / "set", train=200, val=40, test=0, size=128)
    settings = [f"train.cuda_graphs={graphs}", f"train.compile={fused}", "train.lr=2e-3"]
    summary = nanogfl.train(data, out=tmp_path / "run", size="s", input=128, init="none", epochs=15, set=settings)
    assert summary["best"]["AP50"] > 0.2
