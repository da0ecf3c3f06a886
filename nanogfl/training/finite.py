"""A run stops where a number is NaN or infinite, with its batch's names; on a GPU without waiting for every step."""

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
NAMED = 16  # files in an error's line
LAG = 8  # numbers that a GPU may be behind: asking it for the newest would make it idle


@dataclass(frozen=True)
class _Number:
    """A mean over all processes on its way to the CPU, and what is said if it is not finite."""

    own: Tensor
    mean: Tensor
    arrived: Any
    what: str
    epoch: int
    names: list[str]


class Watch:
    """Numbers of the last steps, in the order in which they were made.

    On a CPU each is judged at once, before the weights are touched; on a GPU at most ``LAG`` numbers later, and always
    before anything is validated or written.
    """

    def __init__(self) -> None:
        self.waiting: deque[_Number] = deque()

    def __deepcopy__(self, _: dict[int, Any]) -> Watch:
        """Averaging copies the task; its copy takes no steps."""
        return Watch()

    def see(self, own: Tensor, mean: Tensor, what: str, epoch: int, names: list[str]) -> None:
        """Judge a number, or the one that has waited long enough.

        Args:
            own: this process' number.
            mean: over all processes: it is not finite where one of them is not, so that all stop together.
            what: it is.
            epoch: of the step.
            names: of the batch's pictures.

        Raises:
            TrainingError: it is not finite.
        """
        arrived = None
        if mean.is_cuda:
            host = torch.empty(2, pin_memory=True)
            host.copy_(torch.stack([own.detach(), mean]).float(), non_blocking=True)
            own, mean, arrived = host[0], host[1], torch.cuda.Event()
            arrived.record()
        self.waiting.append(_Number(own.detach(), mean, arrived, what, epoch, names))
        self.settle(LAG if arrived is not None else 0)

    def settle(self, left: int = 0) -> None:
        """Judge all but the newest few. Raises TrainingError as ``see`` does."""
        while len(self.waiting) > left:
            number = self.waiting.popleft()
            if number.arrived is not None:
                number.arrived.synchronize()
            if not torch.isfinite(number.mean):
                _stop(number)


def _stop(number: _Number) -> None:
    names = gather([] if torch.isfinite(number.own) else number.names)
    if dist.is_available() and dist.is_initialized() and dist.get_rank():
        raise SystemExit(0)  # the first process says it for all, and is killed by Lightning where another fails
    if len(names) > NAMED:
        log.warning("the batch: %s", ", ".join(names))
    files = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    raise TrainingError(
        f"the {number.what} became {float(number.mean)} at epoch {number.epoch + 1} in the batch of {files}; "
        "the last good checkpoint is untouched: check these pictures, or lower train.lr and --resume"
    )


def gather(mine: list[Any]) -> list[Any]:
    """The lists of all processes in one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return mine
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return [item for part in everyone for item in part]
