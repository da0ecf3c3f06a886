"""The time of a step by operator, compared with the limits of memory bandwidth and arithmetic."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nanogfl.training.stages import Loop, Row, Work

WARM = 3  # steps that are not profiled
# Operators that do not read their first argument: they overwrite it, or use only its shape and type.
UNREAD = {"copy_", "fill_", "zero_", "new_zeros", "new_full", "zeros_like", "ones_like", "full_like"}


class Operators(TorchDispatchMode):
    """A dispatch mode that names each operator by stage, and counts the bytes that it reads and writes.

    Operators that move no data are skipped: views of other tensors, and allocations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []
        self.bytes, self.calls = Counter[str](), Counter[str]()

    def tick(self, stage: str) -> None:
        """Record the end of a stage."""
        self.stages.append(stage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator under its name and count its bytes."""
        kwargs = kwargs or {}
        name, results = func._schema.name.removeprefix("aten::"), func._schema.returns
        view = any(made.alias_info is not None and not made.alias_info.is_write for made in results)
        if view or "empty" in name or name.startswith("profiler::"):
            return func(*args, **kwargs)
        key = f"stage {len(self.stages)} {name}"  # the profiler would demangle "3 mm" as a C++ name
        with record_function(key):
            made = func(*args, **kwargs)
        read = (args[1:], kwargs) if name in UNREAD else (args, kwargs)
        self.bytes[key] += sum(map(size, [*tree_leaves(read), *tree_leaves(made)]))
        self.calls[key] += 1
        return made


def size(value: Any) -> int:
    """Return the bytes of memory behind a tensor; expanded dimensions count once."""
    if not isinstance(value, Tensor):
        return 0
    count = 1
    for length, stride in zip(value.shape, value.stride(), strict=True):
        count *= length if stride else 1
    return count * value.element_size()


@dataclass(frozen=True)
class Roof:
    """The peak performance of a device, measured on it.

    Attributes:
        bandwidth: bytes per second, read and written, of a copy too large for the caches.
        multiply: FLOP per second of a square matrix product in the precision of training.
    """

    bandwidth: float
    multiply: float


def roof(device: torch.device, precision: torch.dtype) -> Roof:
    """Measure the peak performance: the best of five copies of 256 MB, and of five matrix products."""
    side = 8192 if device.type == "cuda" else 2048
    source = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    target, square = torch.empty_like(source), torch.randn(side, side, device=device).to(precision)
    return Roof(2 * len(source) / best(lambda: target.copy_(source)), 2 * side**3 / best(lambda: square @ square))


def best(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of five calls, after an untimed first one."""
    seconds = list[float]()
    for _ in range(6):
        wait()
        began = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def wait() -> None:
    """Synchronise the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def operators(row: Row, work: Work) -> dict[str, Any]:
    """Profile the steps of a row in this process.

    Returns:
        ``pictures``, ``gflop`` per step, ``bandwidth`` and ``multiply`` of the device (GB/s, TFLOP/s), and ``rows``,
        one for each operator of each stage: ``stage``, ``operator``, ``calls`` per step, ``ms``, ``megabytes``.
    """
    loop = Loop(row, work)
    for _ in range(WARM):
        loop.step(next(loop.batches).to(loop.device))
    batch = next(loop.batches).to(loop.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loop.task.detector(loop.task.normalise(batch.images))
    activity = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (loop.device.type == "cuda")
    with profile(activities=activity) as profiled:
        for _ in range(work.steps):
            with Operators() as seen:
                loop.step(batch, seen.tick)
        wait()
    spent = Counter[str]()
    for event in profiled.key_averages():
        if event.key in seen.calls and event.device_type == DeviceType.CPU:  # a GPU lists its ranges again
            spent[event.key] += event.device_time_total if loop.device.type == "cuda" else event.cpu_time_total
    made = list[dict[str, Any]]()
    for key, calls in seen.calls.items():
        _, stage, name = key.split(" ")
        milliseconds, megabytes = spent[key] / work.steps / 1000, seen.bytes[key] / 1e6
        entry = {"stage": seen.stages[int(stage)], "operator": name, "calls": calls}
        made.append(entry | {"ms": milliseconds, "megabytes": megabytes})
    limits = roof(loop.device, loop.precision)
    device = {"bandwidth": limits.bandwidth / 1e9, "multiply": limits.multiply / 1e12}
    # A step has three times the FLOP of a forward pass: forward, gradients of feature maps, gradients of weights.
    return {"pictures": len(batch.names), "gflop": 3 * counter.get_total_flops() / 1e9} | device | {"rows": made}
