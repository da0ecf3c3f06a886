"""A training step on the cores of a CPU: each takes its part of the batch, as processes do in data-parallel training.

Small convolutions gain little from being cut over threads; whole parts of a batch do. The parts share the weights,
the loss' normalisers are means over all parts, and the gradients are averaged, so that a step is that of the whole
batch but for batch norm, which sees its own part (and keeps the first one's statistics, as Lightning's DDP does).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier, BrokenBarrierError
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nanogfl.model.detector import Detector
from nanogfl.training.gradients import Gradients, given, gradients_of
from nanogfl.training.objective import Parts, Share

LEAST = 8  # pictures a part of a full batch: batch norm wants company
Modules = TypeVar("Modules", bound=nn.Module)


def parts_for(batch: int, threads: int) -> int:
    """How many parts a batch is cut into on so many threads."""
    return max(1, min(threads, batch // LEAST))


class Networks(nn.Module):
    """Detector and guidance, to be copied together."""

    def __init__(self, detector: Detector, guidance: nn.Module | None) -> None:
        super().__init__()
        self.detector, self.guidance = detector, guidance


class Cores:
    """The threads, and a replica of the modules for each: own batch statistics, shared weights.

    Args:
        modules: what trains.
        parts: number of threads.
        threads: for the operators inside each part.
    """

    def __init__(self, modules: nn.Module, parts: int, threads: int = 1) -> None:
        self.replicas = [modules, *(replica(modules) for _ in range(parts - 1))]
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        self.pool = ThreadPoolExecutor(parts, "part", torch.set_num_threads, (threads,))

    def losses(self, pieces: Sequence[Any], loss: Callable[[Any, Any, Share], Parts], share: Share) -> Parts:
        """The parts of the loss over all pieces of a batch; their sum carries the gradients of all.

        Args:
            pieces: at most one for each replica.
            loss: of a replica, a piece and the share that the piece is.
            share: of this process.

        Returns:
            The loss' parts; gradients flow through all of them.

        Raises:
            Exception: what ``loss`` raised, in any piece.
        """
        for one in self.replicas[1:]:
            for ours, theirs in zip(self.replicas[0].modules(), one.modules(), strict=True):
                theirs.training = ours.training
        parts = len(self.replicas)  # of every step and process: what a small batch leaves out counts as nothing
        meeting, count = Meeting(len(pieces), parts, share.mean), share.count * parts
        autocast = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

        def part(index: int, piece: Any) -> tuple[Parts, Sequence[Tensor | None]]:
            with meeting, torch.autocast("cpu", *autocast):
                losses = loss(self.replicas[index], piece, Share(partial(meeting.mean, index), count))
            return losses, gradients_of(losses, self.parameters)

        futures = [self.pool.submit(part, *item) for item in enumerate(pieces)]
        made = results(futures)
        shown = {name: torch.stack([p[name].detach() for p, _ in made]).sum() / parts for name in made[0][0]}
        return given(shown, average([g for _, g in made], parts), self.parameters)


class Meeting:
    """Where the parts of a batch exchange a number; one that fails sends the others home.

    Args:
        count: of those that come.
        parts: of those that the mean is over; who does not come has nothing.
        mean: over the processes.
    """

    def __init__(self, count: int, parts: int, mean: Callable[[Tensor], Tensor]) -> None:
        self.values: list[Tensor | None] = [None] * count
        self.parts, self.over_processes, self.result = parts, mean, torch.zeros(())
        self.barrier = Barrier(count, self._settle)

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.barrier.abort()

    def mean(self, index: int, value: Tensor) -> Tensor:
        """The mean of all parts' values."""
        self.values[index] = value.detach()
        self.barrier.wait()
        return self.result

    def _settle(self) -> None:
        total = torch.stack([v for v in self.values if v is not None]).sum(dim=0)
        self.result = self.over_processes(total / self.parts)


def replica(modules: Modules) -> Modules:
    """A copy with buffers of its own on the same parameters."""
    return copy.deepcopy(modules, {id(p): p for p in modules.parameters()})


def average(gradients: Sequence[Sequence[Tensor | None]], parts: int) -> Gradients:
    """The mean over so many parts of the gradient of each parameter; a part that gave none counts as zero."""
    same = ([g for g in column if g is not None] for column in zip(*gradients, strict=True))
    return [torch.stack(known).sum(dim=0) / parts if known else None for known in same]


def results(futures: Sequence[Any]) -> list[Any]:
    """All results in order; of several errors the one that came first, not those of who waited for it."""
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in errors:
        if not isinstance(error, BrokenBarrierError):
            raise error
    return [future.result() for future in futures]
