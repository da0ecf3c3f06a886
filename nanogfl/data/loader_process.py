"""Initialisation of the DataLoader's worker processes."""

from __future__ import annotations

import signal
import sys
from types import TracebackType

import cv2
import torch


def init_worker(_: int) -> None:
    """Initialise a loader process: use one thread, which leaves cores to the network, and ignore SIGINT and SIGTERM.

    Ctrl-C in a terminal reaches all processes, but the main process ends its loader processes itself.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    sys.excepthook = _report_unless_disconnected


def _report_unless_disconnected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an uncaught error, unless the main process was interrupted while it fetched a batch's shared memory."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)
