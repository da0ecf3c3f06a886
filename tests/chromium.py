"""A headless Chromium, driven over a pipe with its DevTools protocol: no driver and no package to install."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream",
    "--remote-debugging-pipe",
)
# Chromium reads its orders from descriptor 3 and answers on 4.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find_chromium() -> str | None:
    """$CHROMIUM, else the first that is installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One running browser."""

    def __init__(self, process: subprocess.Popen[bytes], orders: int, answers: int) -> None:
        self.process, self._orders, self._answers = process, orders, answers
        self._number, self._buffer, self.events = 0, b"", list[dict[str, Any]]()

    def call(self, method: str, session: str | None = None, seconds: float = 120, **params: Any) -> dict[str, Any]:
        """One command; its result. Events that come meanwhile are kept in ``events``."""
        self._number += 1
        order: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            order["sessionId"] = session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        deadline = time.monotonic() + seconds
        while True:
            message = self._next(deadline, method)
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.events.append(message)

    def _next(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"Chromium did not answer {what} in time"
            piece = os.read(self._answers, 1 << 20)
            assert piece, "Chromium ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    @contextmanager
    def page(self, url: str, before: str = "", camera: bool = True) -> Iterator[Page]:
        """A tab in a profile of its own; ``before`` runs ahead of its scripts, ``camera``: may it have one."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        setting = "granted" if camera else "denied"
        self.call("Browser.setPermission", permission={"name": "camera"}, setting=setting, browserContextId=context)
        page.call("Page.enable")
        page.call("Runtime.enable")
        if before:
            page.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        page.call("Page.navigate", url=url)
        page.wait("document.readyState === 'complete'")
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command for this tab."""
        return self.browser.call(method, self.session, **params)

    def run(self, code: str, seconds: float = 120) -> Any:
        """The value of an async function's body, run in the page."""
        expression = f"(async () => {{ {code} }})()"
        done = self.browser.call(
            "Runtime.evaluate", self.session, seconds, expression=expression, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in done, done["exceptionDetails"]["exception"].get("description", done)
        return done["result"].get("value")

    def wait(self, condition: str, seconds: float = 120) -> Any:
        """The first true value of an expression."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := self.run(f"return {condition}", seconds):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {condition}; the page says {self.run('return document.body.innerText')!r}")

    def choose_file(self, selector: str, path: Path) -> None:
        """Puts a file into a file input, as a person does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


@contextmanager
def chromium(*flags: str) -> Iterator[Chromium]:
    """A browser with a new, empty profile; ended with all its children."""
    program = find_chromium()
    assert program, "no Chromium"
    order_out, order_in = os.pipe()
    answer_out, answer_in = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(order_out), str(answer_in), *command],
            pass_fds=(order_out, answer_in), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(order_out)
        os.close(answer_in)
        try:
            yield Chromium(process, order_in, answer_out)
        finally:
            os.close(order_in)  # Chromium ends when its orders do
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(answer_out)
