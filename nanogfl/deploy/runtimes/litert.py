"""LiteRT, formerly TensorFlow Lite, with its XNNPACK delegate."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def convert(checkpoint: Path, out: Path) -> None:
    """A checkpoint to ``out`` (.tflite), float32."""
    import litert_torch

    from nanogfl.deploy.runtimes.torch import example, ready

    litert_torch.convert(ready(checkpoint), example(checkpoint)).export(str(out))


def open_network(path: Path, threads: int, _names: list[str]) -> Any:
    """On the CPU."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    given, made = (d[0]["index"] for d in (interpreter.get_input_details(), interpreter.get_output_details()))

    def run(image: Any) -> dict[str, Any]:
        interpreter.set_tensor(given, image)
        interpreter.invoke()
        return {"raw": interpreter.get_tensor(made)[0]}

    return run
