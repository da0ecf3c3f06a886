"""``nanogfl export``: build, prove, and only then keep."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from nanogfl.data.readers import read_table
from nanogfl.deploy.build import Form, build
from nanogfl.deploy.verify import Parity, compare, drawn_pictures, given_pictures
from nanogfl.errors import ExportError, ModelError
from nanogfl.predictor import Predictor, TorchDetector, load
from nanogfl.runtime.session import OnnxDetector, count_nodes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """What an export left.

    Attributes:
        path: the file.
        megabytes: its size.
        nodes: how many of each type.
        parity: what it proved.
    """

    path: Path
    megabytes: float
    nodes: dict[str, int]
    parity: Parity


def export(
    checkpoint: str | Path,
    *,
    out: str | Path,
    input: str | int | tuple[int, int] | None = None,  # noqa: A002  (the option's name everywhere)
    config: str | Path | None = None,
    data: str | Path | None = None,
    form: Form | str = "frame",
    sigma: bool = False,
) -> Exported:
    """Make one ONNX file of a checkpoint, and keep it only if it finds the same boxes.

    Args:
        checkpoint: ours, NanoDet's, or a published name.
        out: the file to write, ending in .onnx.
        input: input size, where not the checkpoint's own.
        config: a NanoDet ``.yml``.
        data: a set whose pictures prove the file; drawn pictures where None.
        form: frame, tensor or core; or a Form.
        sigma: also give the deviation of each side.

    Raises:
        ExportError: the file did not prove itself; nothing is left.
        ModelError: the checkpoint cannot be used.
    """
    path = Path(out)
    if path.suffix != ".onnx":
        raise ExportError(f"--out {path}: the file must end in .onnx")
    asked = form if isinstance(form, Form) else Form(form, sigma=sigma)
    detector = load(checkpoint, input=input, config=config)
    if not isinstance(detector, TorchDetector):
        raise ModelError(f"{checkpoint} is an ONNX already; export takes a checkpoint")
    model = build(detector, asked)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial.onnx")
    try:
        partial.write_bytes(model.SerializeToString())
        parity = prove(detector, OnnxDetector(partial), data)
        entry = next(p for p in model.metadata_props if p.key == "nanogfl.parity")
        entry.value = json.dumps(parity.to_json())
        partial.write_bytes(model.SerializeToString())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    log.info("proven: %s", parity.to_text())
    return Exported(path, path.stat().st_size / 1e6, dict(count_nodes(model)), parity)


def prove(a: Predictor, b: Predictor, data: str | Path | None) -> Parity:
    """Compare on a set's pictures, or on drawn ones.

    Raises:
        ExportError: the two differ.
    """
    pictures = drawn_pictures() if data is None else given_pictures([e.path for e in read_table(data).examples[:400]])
    parity = compare(a, b, pictures)
    if not parity.holds:
        lines = "; ".join(parity.worst[:3]) or f"raw outputs differ by {parity.raw:.2g}"
        raise ExportError(f"the two models differ, nothing was kept: {lines} ({parity.to_text()})")
    return parity


def verify(a: str | Path, b: str | Path, data: str | Path | None = None) -> Parity:
    """Run the same check on any pair of models.

    Raises:
        ExportError: the two differ.
    """
    first = load(a)
    second = load(b, input=None if Path(b).suffix == ".onnx" else first.input_size)
    if Path(a).suffix != ".onnx" and second.input_size != first.input_size:
        first = load(a, input=second.input_size)
    return prove(first, second, data)


def nodes_text(nodes: dict[str, int]) -> str:
    """Counts by type, largest first."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(nodes.items(), key=lambda item: -item[1]))
