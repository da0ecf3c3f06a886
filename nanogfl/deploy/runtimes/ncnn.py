"""Adapter for ncnn, converted by pnnx to a .param and a .bin that apps can use unchanged.

The blobs have the names of our ONNX files: ``image`` in, ``classes_8 .. sides_64`` out.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# The package is an optional extra that may be missing where pyright runs.

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nanogfl.errors import ExportError


def convert(core: Path, out: Path) -> None:
    """Convert a file of the core form to ``out`` (.param) and its float32 weights (.bin) next to it."""
    import onnx
    import pnnx

    graph = onnx.load(str(core)).graph
    shape = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    program = Path(pnnx.__file__).parent / ("pnnx.exe" if sys.platform == "win32" else "pnnx")
    if not program.is_file():
        program = next(p for p in (Path(pnnx.__file__).parent / "bin").iterdir() if p.stem == "pnnx")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "core.onnx")
        shutil.copy(core, copy)
        command = [str(program), str(copy), f"inputshape=[{','.join(map(str, shape))}]", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        made = copy.with_suffix(".ncnn.param")
        if done.returncode or not made.is_file():
            raise ExportError(f"pnnx could not convert the network: {(done.stderr or done.stdout).strip()[-200:]}")
        blobs = {"in0": "image"} | {f"out{i}": o.name for i, o in enumerate(graph.output)}
        text = re.sub(r"\b(?:in0|out\d+)\b", lambda m: blobs.get(m[0], m[0]), made.read_text(encoding="utf-8"))
        out.write_text(text, encoding="utf-8")
        shutil.move(copy.with_suffix(".ncnn.bin"), out.with_suffix(".bin"))


def open_network(path: Path, threads: int, names: list[str]) -> Any:
    """Open a file on the CPU, with float32 storage and arithmetic."""
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
        setattr(net.opt, f"use_{option}", False)
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ExportError(f"ncnn cannot read {path}; convert it again")

    def run(image: Any) -> dict[str, Any]:
        extractor = net.create_extractor()
        extractor.input("image", ncnn.Mat(image[0]))
        return {name: np.array(extractor.extract(name)[1])[None] for name in names}

    return run
