"""The progress bar of a training, as an 80-column terminal shows it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from runs import quick


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Makes stderr a terminal of 80 columns; the list holds what was written, once this is left."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    said: list[bytes] = []

    def listen() -> None:
        with suppress(OSError):  # the other end was closed
            while part := os.read(ours, 4096):
                said.append(part)

    thread = threading.Thread(target=listen)
    thread.start()
    with os.fdopen(theirs, "w") as screen, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", screen)
        yield said
    thread.join()
    os.close(ours)


@pytest.mark.parametrize("guidance", ["none", "light"])
def test_80_columns_show_speed_rate_losses_and_the_end(
    guidance: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch) as said:
        quick(tiny_set, tmp_path / "run", epochs=2, set=[f"model.guidance={guidance}"])
    lines = [line for line in re.split(r"[\r\n]", b"".join(said).decode()) if "img/s" in line]
    assert lines and max(map(len, lines)) <= 80
    parts = r"epoch 2/2: .*\d\d:\d\d<\d\d:\d\d, [\d.]+ img/s lr \d\.\de-\d\d "
    losses = r"(qfl|dfl|giou) [\d.]+ (qfl|dfl|giou) [\d.]+ (qfl|dfl|giou) [\d.]+"
    assert re.search(parts + losses, lines[-1]), lines[-1]


def test_without_a_terminal_a_line_says_now_and_then_that_it_lives(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "nanogfl")
    monkeypatch.setattr("nanogfl.training.progress.SILENCE_S", -1)
    quick(tiny_set, tmp_path / "run", epochs=1)
    lived = [m for m in caplog.messages if re.match(r"epoch 1/1, batch [123]/3: [\d.]+ img/s lr .* qfl [\d.]+", m)]
    assert len(lived) == 3
    quick(tiny_set, tmp_path / "run", epochs=2, resume=True)
    assert "resuming after step 3, in epoch 2" in caplog.messages
