"""A process that runs an exported file with onnxruntime and answers requests: one line of JSON in, one out.

``nanogfl bench --target`` copies this one file to the device, so it uses only the standard library, numpy and
onnxruntime. The same code times onnxruntime's rows on the local machine, so that the tables are comparable.

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

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported; otherwise it reports sessions
MARK = "@nanogfl "  # starts each answer, so that other output of a library or adb can be ignored
LIMITS = {"iou_threshold": np.array(0.6, np.float32), "max_boxes": np.array(100, np.int64)}
FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8"),  # x86
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),  # ARM; dp: int8 dot products
)


class Subject(Protocol):
    """A model to measure; ``frame`` returns (boxes [N, 4] in frame px, scores [N], labels [N])."""

    @property
    def network(self) -> Callable[[Any], Any]: ...  # noqa: D102  (image float32 [1, 3, H, W], 0 to 255)
    def frame(self, frame: Any, score: float) -> tuple[Any, Any, Any]: ...  # noqa: D102  (frame uint8 [H, W, 3])
    def raw(self, image: Any) -> Any: ...  # noqa: D102  (logits as one array)


class FrameFile:
    """A file of the frame form in onnxruntime, and optionally the network alone; needs only numpy and onnxruntime."""

    def __init__(self, model: str, threads: int) -> None:
        self.session = _session(model, threads)
        self.core: Any = None
        optional = {i.name for i in self.session.get_overridable_initializers()}
        self._limits = {name: value for name, value in LIMITS.items() if name in optional}
        self._takes_score = "score_threshold" in optional

    def add_network(self, core: str, threads: int) -> None:
        """Load the network alone; a separate step, so that it is not counted in the memory that an app needs."""
        self.core = _session(core, threads)

    def network(self, image: Any) -> Any:
        """Return the maps of one image float32 [1, 3, H, W]."""
        return self.core.run(None, {"image": image})

    def raw(self, image: Any) -> Any:
        """Return the maps of one image float32 [1, 3, H, W] as one array [P, C + 4 * (R + 1)]."""
        return rows(dict(zip([o.name for o in self.core.get_outputs()], self.network(image), strict=True)))

    def frame(self, frame: Any, score: float) -> tuple[Any, Any, Any]:
        """Return boxes, scores and labels of one frame uint8 [H, W, 3]."""
        feeds = {"image": frame, **self._limits}
        if self._takes_score:
            feeds["score_threshold"] = np.array(score, np.float32)
        boxes, scores, labels = self.session.run(["boxes", "scores", "labels"], feeds)
        keep = scores > score
        return boxes[keep], scores[keep], labels[keep]


def rows(outputs: dict[str, Any]) -> Any:
    """Return a network's outputs as one array [P, C + 4 * (R + 1)]: ``raw`` as it is, or maps [1, K, h, w] joined.

    Class columns are logits of the final score, which includes the quality if there is a quality predictor.
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
    """The state of one process; each public method answers one kind of request."""

    def __init__(self, opener: Callable[[dict[str, Any]], Subject]) -> None:
        self.opener = opener
        self.subject: Any = None
        self.frames: Any = None
        self.images: Any = None
        self.score = 0.3  # score threshold when frames are timed

    def machine(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the description of this machine, and the version of onnxruntime."""
        import onnxruntime

        return describe_machine() | {"versions": {"onnxruntime": onnxruntime.__version__}}

    def open(self, job: dict[str, Any]) -> dict[str, Any]:
        """Load ``model`` and run each frame of the .npz ``pictures`` once; return load_ms and peak_mb."""
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
        """Return the milliseconds of each of ``count`` runs of ``what``: network or frame."""
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
        """Return the detections in frame ``index``."""
        return listed(self.subject.frame(self.frames[job["index"]], job["score"]))

    def raw(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the network's raw output for image ``index``, as float32 in base64."""
        values = np.ascontiguousarray(self.subject.raw(self.images[job["index"]][None]), "<f4")
        return {"raw": base64.b64encode(values.tobytes()).decode()}


def listed(found: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Convert boxes, scores and labels to lists for JSON."""
    boxes, scores, labels = found
    return {"boxes": boxes.tolist(), "scores": scores.tolist(), "labels": labels.tolist()}


def serve(bench: Any) -> None:
    """Answer each request by the method of ``bench`` that ``do`` names, until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # prints of libraries go to stderr, not between the answers
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = getattr(bench, job["do"])(job)
        except Exception as error:  # a runtime may raise any error; the process continues with the next request
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        answers.write(MARK + json.dumps(answer) + "\n")
        answers.flush()


def describe_machine() -> dict[str, Any]:
    """Return the processor, cores, instruction sets, memory, system, Python version and load of this machine."""
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
    """Return the lines ``key: value`` of a file as a dict; the first line of each key wins."""
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
