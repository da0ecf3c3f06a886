"""Communication with a process that runs measurements, on this machine or on a device."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

from nanogfl.deploy.device_runner import MARK
from nanogfl.errors import ExportError

LOCAL = [sys.executable, "-m", "nanogfl.deploy.runtimes.process"]


class WorkerError(ExportError):
    """A request failed in a worker; the message is the worker's."""


class Worker:
    """A process that answers the requests of nanogfl.deploy.device_runner."""

    def __init__(self, command: list[str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, encoding="utf-8"
        )

    def ask(self, do: str, **job: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            WorkerError: the request failed, or the process has ended.
        """
        given, answers = self._process.stdin, self._process.stdout
        assert given is not None and answers is not None
        with contextlib.suppress(OSError):  # the process has ended; on Windows this is EINVAL
            given.write(json.dumps({"do": do, **job}) + "\n")
            given.flush()
        for line in answers:
            if line.startswith(MARK):
                answer = json.loads(line.removeprefix(MARK))
                if "error" in answer:
                    raise WorkerError(answer["error"])
                return answer
        raise WorkerError(self._last_words())

    def _last_words(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace").strip().splitlines()
        how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"its process was {how}" if code < 0 else f"its process {how}: {said[-1] if said else 'no output'}"

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
