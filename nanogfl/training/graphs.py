"""A training step on a GPU, recorded once as a CUDA graph and replayed.

A small network's kernels are done sooner than Python can start them. A graph starts a thousand of them at once:
forward, guidance, assignment, losses and gradients of a batch. Shapes are fixed in it, so that there is one for each
size that batches have; boxes are padded to powers of two, which changes no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nanogfl.data.batch import Batch
from nanogfl.training.gradients import Gradients, given, gradients_of
from nanogfl.training.objective import Parts

WARM = 2  # passes before recording, in which libraries choose their kernels
LEAST_ROOM = 8  # boxes a picture

Losses = Callable[[Batch], Parts]


class Graphs:
    """The graphs of a run, recorded as they are needed.

    Args:
        modules: what trains; its tensors must stay where they are.
        losses: the parts of the loss of a batch; it may wait for nothing.
    """

    def __init__(self, modules: nn.Module, losses: Losses) -> None:
        self.modules, self.make = modules, losses
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        self._begin(None)

    def _begin(self, state: Hashable) -> None:
        """What another state recorded will not be asked for again; a pool without graphs cannot be used again."""
        self.state, self.recorded = state, dict[Hashable, Recording]()
        self.pool = torch.cuda.graph_pool_handle()  # one graph at a time runs, so that all work in the same memory

    def losses(self, batch: Batch, state: Hashable) -> Parts:
        """The parts of the loss, whose sum carries the gradients.

        Args:
            batch: on the GPU.
            state: whatever else ``losses`` depends on.
        """
        if state != self.state:
            self._begin(state)
        batch = batch.with_room(room(batch.boxes.shape[1]))
        key = (batch.images.shape, batch.boxes.shape[1])
        if key not in self.recorded:
            self.recorded[key] = Recording(self._step, batch, self.modules, self.pool)
        return given(*self.recorded[key].replay(batch), self.parameters)

    def _step(self, batch: Batch) -> tuple[Parts, Gradients]:
        kind, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", kind, enabled, cache_enabled=False):  # a cast must not outlive its graph
            parts = self.make(batch)
        return {name: part.detach() for name, part in parts.items()}, gradients_of(parts, self.parameters)


class Recording:
    """One graph, the tensors it reads, and those it leaves."""

    def __init__(
        self, step: Callable[[Batch], tuple[Parts, Gradients]], batch: Batch, modules: nn.Module, pool: Any
    ) -> None:
        self.inputs = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, Tensor)}
        batch = replace(batch, **self.inputs)
        statistics = [buffer.clone() for buffer in modules.buffers()]
        now, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(now)
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                step(batch)
        now.wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        # What other threads do meanwhile, such as pinning the next batches, is not their mistake.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.made = step(batch)
        with torch.no_grad():
            for buffer, before in zip(modules.buffers(), statistics, strict=True):
                buffer.copy_(before)

    def replay(self, batch: Batch) -> tuple[Parts, Gradients]:
        """Parts and gradients of a batch; the next replay writes over them."""
        for name, value in self.inputs.items():
            value.copy_(getattr(batch, name))
        self.graph.replay()
        return self.made


def compiled(networks: Any, backend: str = "inductor") -> Any:
    """Detector and guidance whose detector's parts are fused by torch.compile; the weights are the same tensors."""
    parts = {
        name: torch.compile(getattr(networks.detector, name), dynamic=False, backend=backend)
        for name in ("backbone", "neck", "head")
    }
    return SimpleNamespace(detector=SimpleNamespace(**parts), guidance=networks.guidance)


def room(boxes: int) -> int:
    """So many rows are kept for these boxes."""
    return max(LEAST_ROOM, 1 << (boxes - 1).bit_length())
