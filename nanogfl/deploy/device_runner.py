"""Runs an exported file with onnxruntime where it is told to: one line of JSON in, one out.

``nanogfl bench --target`` copies this one file to the device, so it needs the standard library, numpy and onnxruntime
only. On this machine the same code times onnxruntime's rows, so that both tables say the same.

Requests are ``{"do": "machine" | "open" | "time" | "boxes" | "raw", ...}``; see :func:`serve`.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported, else it reports sessions
MARK = "@nanogfl "  # before each answer, so that whatever else a library or adb prints is passed over
LIMITS = {"iou_threshold": np.array(0.6, np.float32), "max_boxes": np.array(100, np.int64)}
FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8"),  # x86
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),  # ARM; dp: int8 dot products
)


class Subject(Protocol):
    """A model that is measured. Boxes are (boxes [N, 4] in frame px, scores [N], labels [N])."""

    @property
    def network(self) -> Callable[[Any], Any]: ...  # noqa: D102  (image float32 [1, 3, H, W], 0 to 255)
    def frame(self, frame: Any, score: float) -> tuple[Any, Any, Any]: ...  # noqa: D102  (frame uint8 [H, W, 3])
    def raw(self, image: Any) -> Any: ...  # noqa: D102  (logits as one array)


class FrameFile:
    """The frame form, and beside it the network alone; only numpy and onnxruntime."""

    def __init__(self, model: str, threads: int) -> None:
        self.session = _session(model, threads)
        self.core: Any = None
        optional = {i.name for i in self.session.get_overridable_initializers()}
        self._limits = {name: value for name, value in LIMITS.items() if name in optional}
        self._takes_score = "score_threshold" in optional

    def add_network(self, core: str, threads: int) -> None:
        """Load the network alone; apart, so that it does not count in the memory that an app needs."""
        self.core = _session(core, threads)

    def network(self, image: Any) -> Any:
        """The maps of one image float32 [1, 3, H, W]."""
        return self.core.run(None, {"image": image})

    def raw(self, image: Any) -> Any:
        """The same maps as [P, C + 4 * (R + 1)]."""
        return rows(dict(zip([o.name for o in self.core.get_outputs()], self.network(image), strict=True)))

    def frame(self, frame: Any, score: float) -> tuple[Any, Any, Any]:
        """Boxes, scores and labels of one frame uint8 [H, W, 3]."""
        feeds = {"image": frame, **self._limits}
        if self._takes_score:
            feeds["score_threshold"] = np.array(score, np.float32)
        boxes, scores, labels = self.session.run(["boxes", "scores", "labels"], feeds)
        keep = scores > score
        return boxes[keep], scores[keep], labels[keep]


def rows(outputs: dict[str, Any]) -> Any:
    """Outputs by name -> [P, C + 4 * (R + 1)]: ``raw`` as it is, or maps of each level [1, K, h, w] put together.

    Class columns are logits of the final score, the quality predictor's product included.
    """
    if "raw" in outputs:
        return np.asarray(outputs["raw"], np.float32)
    kinds: dict[str, list[Any]] = {}
    for name, level in outputs.items():
        kinds.setdefault(name.partition("_")[0], []).append(level.reshape(level.shape[1], -1))
    maps = {kind: np.concatenate(levels, axis=1) for kind, levels in kinds.items()}
    classes = maps["classes"]
    if "quality" in maps:
        score = np.clip(maps["quality"] / (1 + np.exp(-classes)), 1e-6, 1 - 1e-6)
        classes = np.log(score / (1 - score))
    return np.concatenate([classes, maps["sides"]]).T.astype(np.float32)


def _session(path: str, threads: int) -> Any:
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Bench:
    """What the requests of one process work on."""

    def __init__(self, opener: Callable[[dict[str, Any]], Subject]) -> None:
        self.opener = opener
        self.subject: Any = None
        self.frames: Any = None
        self.images: Any = None
        self.score = 0.3  # above which frames are timed

    def machine(self, job: dict[str, Any]) -> dict[str, Any]:
        """What this machine is, and the versions of what was measured."""
        import onnxruntime

        return describe_machine() | {"versions": {"onnxruntime": onnxruntime.__version__}}

    def open(self, job: dict[str, Any]) -> dict[str, Any]:
        """Load ``model`` (timed), then run the ``frames`` of that .npz once each: load_ms, peak_mb."""
        self.score = job["score"]
        start = time.perf_counter()
        self.subject = self.opener(job)
        load_ms = 1e3 * (time.perf_counter() - start)
        with np.load(job["pictures"]) as given:
            self.frames, self.images = given["frames"], given["images"]
        for frame in self.frames:
            self.subject.frame(frame, self.score)
        peak = peak_mb()
        if job.get("core"):
            self.subject.add_network(job["core"], job["threads"])
        return {"load_ms": load_ms, "peak_mb": peak}

    def time(self, job: dict[str, Any]) -> dict[str, Any]:
        """Milliseconds of ``count`` runs of ``what``: network or frame."""
        taken = []
        for i in range(job["count"]):
            if job["what"] == "frame":
                picture = self.frames[i % len(self.frames)]
                start = time.perf_counter()
                self.subject.frame(picture, self.score)
            else:
                image = self.images[i % len(self.images)][None]
                start = time.perf_counter()
                self.subject.network(image)
            taken.append(1e3 * (time.perf_counter() - start))
        return {"ms": taken}

    def boxes(self, job: dict[str, Any]) -> dict[str, Any]:
        """What is found in frame ``index``."""
        return listed(self.subject.frame(self.frames[job["index"]], job["score"]))

    def raw(self, job: dict[str, Any]) -> dict[str, Any]:
        """The network's numbers for image ``index``: float32, base64."""
        values = np.ascontiguousarray(self.subject.raw(self.images[job["index"]][None]), "<f4")
        return {"raw": base64.b64encode(values.tobytes()).decode()}


def listed(found: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Boxes, scores and labels as JSON."""
    boxes, scores, labels = found
    return {"boxes": boxes.tolist(), "scores": scores.tolist(), "labels": labels.tolist()}


def serve(bench: Any) -> None:
    """Answer each request with the method that ``do`` names, until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print find no way between the answers
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = getattr(bench, job["do"])(job)
        except Exception as error:  # a runtime may raise anything, and the next request can still be answered
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        answers.write(MARK + json.dumps(answer) + "\n")
        answers.flush()


def describe_machine() -> dict[str, Any]:
    """Processor, cores, what its instructions are, memory, system, versions, and how busy it is."""
    facts = _facts("/proc/cpuinfo")
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    board = _text("/proc/device-tree/model").strip("\0\n ")
    name = facts.get("model name") or facts.get("Hardware") or platform.processor() or "unknown"
    return {
        "cpu": f"{board}: {name}" if board else name,
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "features": [f for f in FEATURES if f in flags],
        "memory_gb": _memory_gb(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _memory_gb() -> float | None:
    """Return the memory of the machine; None on Windows, which has no sysconf."""
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def peak_mb() -> float | None:
    """Return the peak memory of this process in MB; None on Windows."""
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource  # systems without /proc; macOS counts bytes, others KiB
    except ModuleNotFoundError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _facts(path: str) -> dict[str, str]:
    """Lines ``key: value`` of a file, the first of each key."""
    lines = [line.partition(":") for line in _text(path).splitlines()]
    return {key.strip(): value.strip() for key, _, value in reversed(lines)}


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _open_frame(job: dict[str, Any]) -> Subject:
    return FrameFile(job["model"], job["threads"])


if __name__ == "__main__":
    serve(Bench(_open_frame))
