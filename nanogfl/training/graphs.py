"""A training step on a GPU, recorded once as a CUDA graph and replayed.

The kernels of a small network finish sooner than Python can launch them. A graph launches a thousand of them at once:
forward, guidance, assignment, losses and gradients of a batch. Its shapes are fixed, so there is one graph for each
batch shape. The number of boxes is padded to a power of two, which does not change the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nanogfl.data.batch import Batch
from nanogfl.training.gradients import Gradients, gradients_of, with_gradients
from nanogfl.training.objective import Parts

WARM = 2  # passes before recording, in which libraries select their kernels
LEAST_ROOM = 8  # minimum number of box rows per picture
# By default the compiler stores a batch norm's output before its cast to bf16, because it is made from five tensors.
# Recomputed where it is used, a step moves 272 MB per picture instead of 294 (docs/scale.md, "torch.compile").
RECOMPUTE: dict[str, Any] = {"realize_reads_threshold": 16, "realize_opcount_threshold": 60}

Losses = Callable[[Batch], Parts]


class Graphs:
    """The CUDA graphs of a run, recorded on demand.

    Args:
        modules: the modules to train; their tensors must not be reallocated.
        losses: computes the loss parts of a batch; must not synchronise the device.
    """

    def __init__(self, modules: nn.Module, losses: Losses) -> None:
        self.modules, self.make = modules, losses
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        self._begin(None)

    def _begin(self, state: Hashable) -> None:
        """Drop the graphs of the former state, which will not recur; a pool without graphs cannot be used again."""
        self.state, self.recorded = state, dict[Hashable, Recording]()
        self.pool = torch.cuda.graph_pool_handle()  # graphs run one at a time, so all can use the same memory

    def losses(self, batch: Batch, state: Hashable) -> Parts:
        """Return the loss parts; backward through their sum gives the gradients.

        Args:
            batch: on the GPU.
            state: everything else that ``losses`` depends on.
        """
        if state != self.state:
            self._begin(state)
        batch = batch.with_room(room(batch.boxes.shape[1]))
        key = (batch.images.shape, batch.boxes.shape[1])
        if key not in self.recorded:
            self.recorded[key] = Recording(self._step, batch, self.modules, self.pool)
        return with_gradients(*self.recorded[key].replay(batch), self.parameters)

    def _step(self, batch: Batch) -> tuple[Parts, Gradients]:
        kind, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", kind, enabled, cache_enabled=False):  # a cached cast must not outlive its graph
            parts = self.make(batch)
        return {name: part.detach() for name, part in parts.items()}, gradients_of(parts, self.parameters)


class Recording:
    """A CUDA graph, the tensors that it reads, and those that it writes."""

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
        # CUDA calls of other threads during the recording, such as pinning the next batches, are no errors.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.made = step(batch)
        with torch.no_grad():
            for buffer, before in zip(modules.buffers(), statistics, strict=True):
                buffer.copy_(before)

    def replay(self, batch: Batch) -> tuple[Parts, Gradients]:
        """Return loss parts and gradients of a batch; the next replay overwrites them."""
        for name, value in self.inputs.items():
            value.copy_(getattr(batch, name))
        self.graph.replay()
        return self.made


def compiled(networks: Any, backend: str = "inductor") -> Any:
    """Return detector and guidance, the detector's modules compiled by torch.compile; the weights are shared.

    The detector's LeakyReLUs no longer overwrite their input. In place, their backward reads their output; otherwise
    the compiler recomputes the input from what batch norm's backward reads anyway.
    """
    for module in networks.detector.modules():
        if isinstance(module, nn.LeakyReLU):
            module.inplace = False
    options = RECOMPUTE if backend == "inductor" else None
    parts = {
        name: torch.compile(getattr(networks.detector, name), dynamic=False, backend=backend, options=options)
        for name in ("backbone", "neck", "head")
    }
    return SimpleNamespace(detector=SimpleNamespace(**parts), guidance=networks.guidance)


def room(boxes: int) -> int:
    """Return the number of rows to allocate for these boxes: a power of two, at least ``LEAST_ROOM``."""
    return max(LEAST_ROOM, 1 << (boxes - 1).bit_length())
