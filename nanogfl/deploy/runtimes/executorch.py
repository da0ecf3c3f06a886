"""ExecuTorch with the XNNPACK delegate: torch's own runtime for phones."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def convert(checkpoint: Path, out: Path) -> None:
    """A checkpoint to ``out`` (.pte), float32, everything that XNNPACK takes given to it."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from nanogfl.deploy.runtimes.torch import example, ready

    program = torch.export.export(ready(checkpoint), example(checkpoint))
    out.write_bytes(to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


def open_network(path: Path, threads: int, _names: list[str]) -> Any:
    """On the CPU."""
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(path).load_method("forward")

    def run(image: Any) -> dict[str, Any]:
        return {"raw": method.execute([torch.from_numpy(image)])[0][0].numpy()}

    return run
