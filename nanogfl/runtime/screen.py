"""The window: shows pictures and tells which key was pressed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Protocol

import cv2

from nanogfl.pictures import Picture

log = logging.getLogger(__name__)
QUIT = "q"
PROBE = "import cv2; cv2.namedWindow('nanogfl'); cv2.waitKey(1)"


class Screen(Protocol):
    """Where pictures are shown."""

    def show(self, picture: Picture, wait_s: float) -> str:
        """Show it for at least so long; the key that was pressed meanwhile, or nothing."""
        ...

    def wait(self, wait_s: float) -> str:
        """Leave the last picture up; the key that was pressed meanwhile, or nothing."""
        ...

    def close(self) -> None:
        """Take the window away."""
        ...


def has_display() -> bool:
    """Whether a window can be opened here.

    Tried in a process of its own, because the toolkit inside OpenCV ends the process where it cannot.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        tried = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return False
    return tried.returncode == 0


def open_window(title: str) -> Window | None:
    """A window, or nothing and a word where there is no display."""
    if has_display():
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")  # its complaints about fonts
        return Window(title)
    log.warning("no display here: no window, but a JSON line for each frame")
    return None


class Window:
    """A window of OpenCV; closing it by its button is the key q."""

    def __init__(self, title: str) -> None:
        self.title = title.encode(errors="replace").decode()  # OpenCV ends the process at what is not UTF-8
        self._shown = False

    def show(self, picture: Picture, wait_s: float) -> str:
        """Show it for at least so long; the key that was pressed meanwhile, or nothing."""
        if not self._shown:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(self.title, picture.shape[1], picture.shape[0])
        cv2.imshow(self.title, picture)
        self._shown = True
        return self.wait(wait_s)

    def wait(self, wait_s: float) -> str:
        """Leave the last picture up; the key that was pressed meanwhile, or nothing."""
        code = cv2.waitKey(max(1, round(1000 * wait_s)))
        if self._shown and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1:
            return QUIT
        return "" if code < 0 else QUIT if code & 0xFF == 27 else chr(code & 0xFF)

    def close(self) -> None:
        """Take the window away."""
        cv2.destroyAllWindows()
        cv2.waitKey(1)
