"""Common causes of a failed training run, each with its advice."""

from __future__ import annotations

import errno
from pathlib import Path

from nanogfl.errors import TrainingError


def as_training_error(error: BaseException, folder: Path) -> TrainingError:
    """Return a one-line error for an exception that ended a training run: its cause, and what to do about it."""
    text = str(error)
    lacking = any(words in text.lower() for words in ("out of memory", "can't allocate memory"))
    if lacking or isinstance(error, MemoryError):
        room = "train.cache=none or train.cuda_graphs=false" if "cuda" in text.lower() else "train.cache=none"
        advice = f"lower --batch (and raise train.accumulate) or --input, or set {room}; continue with --resume"
        return TrainingError(f"out of memory; {advice}")
    if "more than 1 value per channel" in text:
        return TrainingError(
            "batch norm requires more than one picture per step at this input; increase --batch or --input, or add "
            "pictures, and restart with --overwrite"
        )
    if "DataLoader worker" in text:
        return TrainingError(
            f"a loader process died ({text.splitlines()[0]}); continue with --resume, or set train.workers=0"
        )
    if isinstance(error, PermissionError) and error.filename:  # on Windows: the file is open in a spreadsheet
        file = error.filename2 or error.filename
        advice = "close the program that uses it, or change its permissions; continue with --resume"
        return TrainingError(f"cannot write {file}: {error.strerror}; {advice}")
    if getattr(error, "errno", None) == errno.ENOSPC:
        return TrainingError(f"no space left for {folder}; free some space and continue with --resume")
    return TrainingError(f"training failed: {text.splitlines()[0] if text else type(error).__name__}; see --debug")


def lost_peer(error: BaseException) -> bool:
    """Return whether an error only says that another process of the run has ended, in gloo's words."""
    return any(f"Connection {how} by peer" in str(error) for how in ("closed", "reset"))
