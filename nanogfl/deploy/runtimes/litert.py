"""Adapter for LiteRT (formerly TensorFlow Lite), Google's runtime for phones."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# The package is an optional extra that may be missing where pyright runs.

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanogfl.deploy.runtimes.torch import example, ready


def convert(checkpoint: Path, out: Path) -> None:
    """Convert a checkpoint to ``out`` (.tflite), float32: one image [1, 3, H, W] 0 to 255 in, one raw output out."""
    import litert_torch

    litert_torch.convert(ready(checkpoint), example(checkpoint)).export(str(out))


def open_network(path: Path, threads: int, _names: list[str]) -> Any:
    """Open a file on the CPU, with XNNPACK's kernels."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    (image_at,), (raw_at,) = (
        [d["index"] for d in details] for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )

    def run(image: Any) -> dict[str, Any]:
        interpreter.set_tensor(image_at, image)
        interpreter.invoke()
        return {"raw": interpreter.get_tensor(raw_at)[0]}

    return run
