"""A training step on the cores of a CPU: each thread takes a part of the batch, as in data-parallel training.

Small convolutions gain little from being split over threads; processing whole parts of a batch in parallel does. The
parts share the weights, the loss normalisers are means over all parts, and the gradients are averaged. A step therefore
equals that of the whole batch, except for batch normalisation: each part uses the statistics of its own pictures, and
the running statistics of the first part are kept, as in Lightning's DDP.
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
from nanogfl.training.gradients import Gradients, gradients_of, with_gradients
from nanogfl.training.objective import Parts, Share

LEAST = 8  # minimum number of pictures in a part of a full batch, for batch normalisation
Modules = TypeVar("Modules", bound=nn.Module)


def parts_for(batch: int, threads: int) -> int:
    """Return how many parts a batch is split into, for a number of threads."""
    return max(1, min(threads, batch // LEAST))


class Networks(nn.Module):
    """Detector and guidance as one module, so that they are copied together."""

    def __init__(self, detector: Detector, guidance: nn.Module | None) -> None:
        super().__init__()
        self.detector, self.guidance = detector, guidance


class Cores:
    """A pool of threads with a replica of the modules for each; replicas share the weights, not the batch statistics.

    Args:
        modules: the modules to train.
        parts: number of threads.
        threads: number of threads for the operators inside each part.
    """

    def __init__(self, modules: nn.Module, parts: int, threads: int = 1) -> None:
        self.replicas = [modules, *(replica(modules) for _ in range(parts - 1))]
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        self.pool = ThreadPoolExecutor(parts, "part", torch.set_num_threads, (threads,))

    def losses(self, pieces: Sequence[Any], loss: Callable[[Any, Any, Share], Parts], share: Share) -> Parts:
        """Return the loss parts of a whole batch; backward through their sum gives the gradients of all pieces.

        Args:
            pieces: pieces of the batch, at most one per replica.
            loss: called with a replica, a piece, and the share of the step that the piece makes up.
            share: share of this process.

        Returns:
            The loss parts. Only their sum is differentiable.

        Raises:
            Exception: whatever ``loss`` raised for any piece.
        """
        for one in self.replicas[1:]:
            for ours, theirs in zip(self.replicas[0].modules(), one.modules(), strict=True):
                theirs.training = ours.training
        parts = len(self.replicas)  # the same in every step and process: parts that a small batch lacks count as zero
        barrier, count = MeanBarrier(len(pieces), parts, share.mean), share.count * parts
        autocast = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

        def part(index: int, piece: Any) -> tuple[Parts, Sequence[Tensor | None]]:
            with barrier, torch.autocast("cpu", *autocast):
                losses = loss(self.replicas[index], piece, Share(partial(barrier.mean, index), count))
            return losses, gradients_of(losses, self.parameters)

        futures = [self.pool.submit(part, *item) for item in enumerate(pieces)]
        made = results(futures)
        shown = {name: torch.stack([p[name].detach() for p, _ in made]).sum() / parts for name in made[0][0]}
        return with_gradients(shown, average([g for _, g in made], parts), self.parameters)


class MeanBarrier:
    """A barrier at which the parts of a batch average a number; if one part fails, the others stop waiting.

    Args:
        count: number of parts that take part.
        parts: number of parts that the mean is over; those that do not take part count as zero.
        mean: averages a number over the processes.
    """

    def __init__(self, count: int, parts: int, mean: Callable[[Tensor], Tensor]) -> None:
        self.values: list[Tensor | None] = [None] * count
        self.parts, self.over_processes, self.result = parts, mean, torch.zeros(())
        self.barrier = Barrier(count, self._average)

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.barrier.abort()

    def mean(self, index: int, value: Tensor) -> Tensor:
        """Wait for all parts and return the mean of their values."""
        self.values[index] = value.detach()
        self.barrier.wait()
        return self.result

    def _average(self) -> None:
        total = torch.stack([v for v in self.values if v is not None]).sum(dim=0)
        self.result = self.over_processes(total / self.parts)


def replica(modules: Modules) -> Modules:
    """Return a copy that shares the parameters and has buffers of its own."""
    return copy.deepcopy(modules, {id(p): p for p in modules.parameters()})


def average(gradients: Sequence[Sequence[Tensor | None]], parts: int) -> Gradients:
    """Return the mean of each parameter's gradients over ``parts`` parts; a missing gradient counts as zero."""
    same = ([g for g in column if g is not None] for column in zip(*gradients, strict=True))
    return [torch.stack(known).sum(dim=0) / parts if known else None for known in same]


def results(futures: Sequence[Any]) -> list[Any]:
    """Return all results in order; raise the error of a part that failed, not those of the parts waiting for it."""
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in errors:
        if not isinstance(error, BrokenBarrierError):
            raise error
    return [future.result() for future in futures]
