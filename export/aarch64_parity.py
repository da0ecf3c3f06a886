"""Compare an exported file's results here and in another Python, given as a command; see aarch64_parity.sh."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from nanogfl.deploy import device_runner
from nanogfl.deploy.bench import camera_frames
from nanogfl.deploy.bench_models import prepare
from nanogfl.deploy.bench_rows import Place, Row, Rows
from nanogfl.deploy.runtimes import runtime


def main(model: str, *command: str) -> None:
    with TemporaryDirectory() as name:
        folder, frames = Path(name), camera_frames()[:3]  # an emulator needs seconds per frame
        ready = prepare(model, Path(model).name, folder / "m0", frames)
        place = Place([*command, device_runner.__file__], str(folder / "m0"))
        with Rows(place, folder, frames) as rows:
            row = rows.open(ready, runtime("onnxruntime"), 1)
            if not isinstance(row, Row):
                sys.exit(f"error: {row.reason}")
            machine = row.worker.ask("machine")
            print(
                f"{machine['architecture']}, onnxruntime {machine['versions']['onnxruntime']}: {row.parity.to_text()}"
            )
            print(json.dumps(row.parity.to_json()))


if __name__ == "__main__":
    main(*sys.argv[1:])
