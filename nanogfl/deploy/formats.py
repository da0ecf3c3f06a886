"""``nanogfl export --format``: a checkpoint's network in another runtime's own file, kept only if it gives the same."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nanogfl.deploy.build import Form, build
from nanogfl.deploy.pictures import proof_pictures
from nanogfl.deploy.probe import seen
from nanogfl.deploy.runtimes import FORMATS, RUNTIMES, Runtime, files_of, runtime
from nanogfl.deploy.runtimes.detector import network_image, open_detector
from nanogfl.deploy.verify import LIMITS, Parity, take
from nanogfl.deploy.worker import LOCAL, Worker
from nanogfl.errors import ExportError, ModelError, UsageError
from nanogfl.predictor import TorchDetector, load
from nanogfl.runtime.card import FileCard, read_card
from nanogfl.runtime.outputs import check_outputs
from nanogfl.wholefile import whole_file, write_json


@dataclass(frozen=True)
class Converted:
    """What it left: the files (the graph first, then its weights, then the card) and what was proven."""

    files: list[Path]
    parity: Parity


def export_format(
    checkpoint: str | Path,
    *,
    out: str | Path,
    format: str,  # noqa: A002  (the option's name)
    input: str | int | tuple[int, int] | None = None,  # noqa: A002
    config: str | Path | None = None,
    data: str | Path | None = None,
) -> Converted:
    """Convert the network of a checkpoint, run both on pictures, and keep the file only if they find the same.

    Beside it lies ``NAME.json``: the metadata of our ONNX, which these files have no place for.

    Args:
        checkpoint: ours, NanoDet's, or a published name.
        out: the file, or a folder, which gets ``model`` with the format's suffix.
        format: a runtime with a file of its own.
        input: another input size.
        config: a NanoDet ``.yml``.
        data: a set whose pictures prove the file; drawn ones where None.

    Raises:
        ExportError: the converter failed, or its file gives something else; what lay there before lies there still.
        UsageError: no such format, or its converter is not installed.
    """
    chosen, path = _asked(format, Path(out))
    _check_place(checkpoint, path)
    detector = load(checkpoint, input=input, config=config)
    if not isinstance(detector, TorchDetector):
        raise ModelError(f"{checkpoint} is an ONNX already; export takes a checkpoint")
    core = build(detector, Form("core"))
    card = read_card({p.key: p.value for p in core.metadata_props}, Path(checkpoint))
    with TemporaryDirectory(prefix="nanogfl-export-") as folder:
        made = Path(folder, path.name)
        if chosen.takes == "core":
            given = Path(folder, "core.onnx")
            given.write_bytes(core.SerializeToString())
        else:
            given = detector.save(Path(folder, "network.ckpt"))
        with Worker(LOCAL) as converter:
            converter.ask("convert", runtime=chosen.name, given=str(given), out=str(made))
        parity = _prove(detector, chosen.name, made, card, [o.name for o in core.graph.output], data)
        about = Path(folder, "card.json")
        write_json(about, card.to_metadata() | {"nanogfl.parity": json.dumps(parity.to_json())})
        files = {path.with_suffix(file.suffix): file for file in files_of(made)} | {path.with_suffix(".json"): about}
        with ExitStack() as stack:  # names are given when all is written, the graph's last: where it lies all are whole
            for target, file in files.items():
                shutil.copyfile(file, stack.enter_context(whole_file(target)))
    return Converted(list(files), parity)


def _asked(name: str, out: Path) -> tuple[Runtime, Path]:
    """The runtime and the file; UsageError where it cannot be had."""
    chosen = runtime(name, "--format")
    if chosen.suffix is None:
        raise UsageError(f"--format {name}: {chosen.name} has no file of its own; give one of {', '.join(FORMATS)}")
    if chosen.missing:
        raise UsageError(f"--format {name}: {chosen.missing}")
    named = out.suffix in (".onnx", chosen.suffix, *(r.suffix for r in RUNTIMES)) and not out.is_dir()
    path = out if named else out / f"model{chosen.suffix}"
    if path.suffix != chosen.suffix:
        raise UsageError(f"--out {path}: a file for {chosen.name} ends in {chosen.suffix}")
    return chosen, path


def _check_place(checkpoint: str | Path, path: Path) -> None:
    """Only what was named is replaced, and what an export of ours left beside it."""
    about = path.with_suffix(".json")
    beside = [path.with_suffix(".bin")] if path.suffix in (".param", ".xml") else []
    for target in (path, *beside, about):
        check_outputs([checkpoint], {"--out": target})
    there = [file for file in (*beside, about) if file.exists()]
    if there and not _is_card(about):
        raise UsageError(
            f"--out {path}: {there[0]} lies there, would be replaced, and is of no export; name another place"
        )


def _is_card(path: Path) -> bool:
    """Whether it is what an export wrote."""
    try:
        return "nanogfl.schema" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _prove(
    detector: TorchDetector, name: str, file: Path, card: FileCard, outputs: list[str], data: str | Path | None
) -> Parity:
    """Boxes and raw outputs of the file and of the checkpoint, on each picture."""
    made, parity, layout = open_detector(name, file, 1, card, outputs), Parity(), detector.card.layout
    for title, picture in proof_pictures(data):
        view, image = detector.see(picture)
        raws = detector.raw(image[None])[0], made.raw(network_image(picture, view))
        if raws[0].shape != raws[1].shape:
            raise ExportError(f"{name} gives raw outputs of {raws[1].shape} instead of {raws[0].shape}")
        ours, its = (seen(raw, layout, view, detector.names, LIMITS) for raw in raws)
        take(parity, title, ours, its, layout, LIMITS)
    if not parity.holds:
        raise ExportError(f"{name} does not give what the checkpoint gives, nothing was kept: {parity.why}")
    return parity
