"""The process of one benchmark row: a network in a runtime, between nanogfl's View and decode.

``python -m nanogfl.deploy.runtimes.process`` answers device_runner's requests, and two that need more than numpy:
``detect`` for a picture on disk, and ``convert``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanogfl.deploy.device_runner import Bench, FrameFile, Subject, describe_machine, listed, serve
from nanogfl.deploy.runtimes import RUNTIMES, runtime
from nanogfl.deploy.runtimes.detector import open_detector
from nanogfl.pictures import read_picture
from nanogfl.runtime.card import read_card


class LocalBench(Bench):
    """A Bench that also answers the requests available only on this machine."""

    def machine(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the description of this machine, and the versions of all installed runtimes."""
        return describe_machine() | {"versions": {r.name: r.version for r in RUNTIMES if r.version}}

    def detect(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the detections above ``score`` in the picture at ``path``."""
        return listed(self.subject.frame(read_picture(job["path"]), job["score"]))

    def convert(self, job: dict[str, Any]) -> dict[str, Any]:
        """Convert the file ``given`` to ``out`` for ``runtime``."""
        make = runtime(job["runtime"]).convert
        assert make is not None
        make(Path(job["given"]), Path(job["out"]))
        return {}


def _open(job: dict[str, Any]) -> Subject:
    file = Path(job["model"])
    if job["runtime"] is None:  # a file of the frame form
        return FrameFile(job["model"], job["threads"])
    card = read_card(job["card"], file)
    return open_detector(job["runtime"], file, job["threads"], card, job["outputs"])


if __name__ == "__main__":
    serve(LocalBench(_open))
