"""Checks for losses and gradients that are NaN or infinite, without synchronising a GPU in every step.

A failed check stops the run and names the pictures of the batch.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nanogfl.errors import TrainingError

log = logging.getLogger(__name__)
NAMED = 16  # maximum number of files in an error message
LAG = 8  # how many numbers a check may lag behind on a GPU: reading the newest would leave the GPU idle


@dataclass(frozen=True)
class _Number:
    """A mean over all processes on its way to the CPU, and what the error says if it is not finite."""

    own: Tensor
    mean: Tensor
    arrived: Any
    what: str
    epoch: int
    names: list[str]


class FiniteCheck:
    """A queue of the numbers of the last steps, in the order in which they were computed.

    On a CPU each number is checked at once, before the weights are updated. On a GPU it is checked at most ``LAG``
    numbers later, and always before anything is validated or written.
    """

    def __init__(self) -> None:
        self.waiting: deque[_Number] = deque()

    def __deepcopy__(self, _: dict[int, Any]) -> FiniteCheck:
        """Return an empty queue: weight averaging copies the task, and the copy takes no steps."""
        return FiniteCheck()

    def add(self, own: Tensor, mean: Tensor, what: str, epoch: int, names: list[str]) -> None:
        """Append a number, then check those that are due.

        Args:
            own: number of this process.
            mean: mean over all processes; it is not finite if any process's number is not, so that all stop together.
            what: name of the number in the message.
            epoch: epoch of the step.
            names: names of the batch's pictures.

        Raises:
            TrainingError: a checked number is not finite.
        """
        arrived = None
        if mean.is_cuda:
            host = torch.empty(2, pin_memory=True)
            host.copy_(torch.stack([own.detach(), mean]).float(), non_blocking=True)
            own, mean, arrived = host[0], host[1], torch.cuda.Event()
            arrived.record()
        self.waiting.append(_Number(own.detach(), mean, arrived, what, epoch, names))
        self.check(LAG if arrived is not None else 0)

    def check(self, left: int = 0) -> None:
        """Check all numbers but the newest ``left``; raise TrainingError as ``add`` does."""
        while len(self.waiting) > left:
            number = self.waiting.popleft()
            if number.arrived is not None:
                number.arrived.synchronize()
            if not torch.isfinite(number.mean):
                _stop(number)


def _stop(number: _Number) -> None:
    names = gather([] if torch.isfinite(number.own) else number.names)
    if dist.is_available() and dist.is_initialized() and dist.get_rank():
        raise SystemExit(0)  # rank 0 reports for all; Lightning would kill it if another process failed
    if len(names) > NAMED:
        log.warning("the batch: %s", ", ".join(names))
    files = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    raise TrainingError(
        f"the {number.what} became {float(number.mean)} at epoch {number.epoch + 1} in the batch of {files}; "
        "the last good checkpoint is unchanged: check these pictures, or lower train.lr and use --resume"
    )


def gather(mine: list[Any]) -> list[Any]:
    """Return the lists of all processes, joined into one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return mine
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return [item for part in everyone for item in part]
