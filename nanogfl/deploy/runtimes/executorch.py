"""Adapter for ExecuTorch, PyTorch's runtime for phones, with XNNPACK's kernels."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# The package is an optional extra that may be missing where pyright runs.

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanogfl.deploy.runtimes.torch import example, ready


def convert(checkpoint: Path, out: Path) -> None:
    """Convert a checkpoint to ``out`` (.pte), float32: one image [1, 3, H, W] 0 to 255 in, one raw output out."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with torch.no_grad():
        program = torch.export.export(ready(checkpoint), example(checkpoint))
    made = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    out.write_bytes(made.buffer)


def open_network(path: Path, threads: int, _names: list[str]) -> Any:
    """Open a file on the CPU."""
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(threads)  # safe: no work runs in the pool yet
    method = Runtime.get().load_program(path).load_method("forward")

    def run(image: Any) -> dict[str, Any]:
        return {"raw": method.execute([torch.from_numpy(image)])[0][0].numpy()}

    return run
