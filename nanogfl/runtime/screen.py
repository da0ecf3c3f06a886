"""The window, which shows pictures and reports key presses."""

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
    """A display of pictures."""

    def show(self, picture: Picture, wait_s: float) -> str:
        """Show a picture; return the key pressed within ``wait_s`` seconds, or else an empty string."""
        ...

    def wait(self, wait_s: float) -> str:
        """Keep the last picture; return the key pressed within ``wait_s`` seconds, or else an empty string."""
        ...

    def close(self) -> None:
        """Close the window."""
        ...


def has_display() -> bool:
    """Return whether a window can be opened here.

    The attempt runs in a separate process, because OpenCV's GUI toolkit ends the process if it fails.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        tried = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return False
    return tried.returncode == 0


def open_window(title: str) -> Window | None:
    """Open a window; if there is no display, log a warning and return None."""
    if has_display():
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")  # no warnings about fonts
        return Window(title)
    log.warning("no display found; printing one JSON line per frame")
    return None


class Window:
    """An OpenCV window; closing it by its button, and Escape, count as the key q."""

    def __init__(self, title: str) -> None:
        self.title = title.encode(errors="replace").decode()  # text that is not UTF-8 makes OpenCV end the process
        self._shown = False

    def show(self, picture: Picture, wait_s: float) -> str:
        """Show a picture; return the key pressed within ``wait_s`` seconds, or else an empty string."""
        if not self._shown:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(self.title, picture.shape[1], picture.shape[0])
        cv2.imshow(self.title, picture)
        self._shown = True
        return self.wait(wait_s)

    def wait(self, wait_s: float) -> str:
        """Keep the last picture; return the key pressed within ``wait_s`` seconds, or else an empty string."""
        code = cv2.waitKey(max(1, round(1000 * wait_s)))
        if self._shown and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1:
            return QUIT
        return "" if code < 0 else QUIT if code & 0xFF == 27 else chr(code & 0xFF)

    def close(self) -> None:
        """Close the window."""
        cv2.destroyAllWindows()
        cv2.waitKey(1)
