"""Devices on which a benchmark can run, reached by ssh or adb."""

from __future__ import annotations

import io
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from nanogfl.deploy import device_runner
from nanogfl.errors import ExportError, UsageError, nearest

PREFIX = "nanogfl-bench-"


@dataclass(frozen=True)
class Target:
    """A device on which a benchmark can run.

    Attributes:
        name: the device as it was given on the command line.
        shell: local command that runs a line of shell on the device, which is appended to it.
        push: local command that copies files, for adb; None for ssh, which receives a tar through its shell.
        python: Python command on the device.
    """

    name: str
    shell: tuple[str, ...]
    push: tuple[str, ...] | None
    python: str

    def run(self, line: str, given: bytes = b"") -> str:
        """Run a line of shell on the device and return what it prints.

        Raises:
            ExportError: the device does not respond, or the line failed.
        """
        done = _local([*self.shell, line], self.name, given)
        return done.stdout.decode("utf-8", "replace").strip()

    @contextmanager
    def folder(self, files: Sequence[Path]) -> Iterator[str]:
        """Create a temporary folder on the device with these files and the runner; it is deleted on exit."""
        place = "/data/local/tmp" if self.push else '"${TMPDIR:-/tmp}"'
        folder = self.run(f"mktemp -d {place}/{PREFIX}XXXXXX").splitlines()[-1].strip()
        if PREFIX not in folder:
            raise ExportError(f"{self.name}: cannot create a folder there ({folder[:100]}); check its free space")
        try:
            everything = [*files, Path(device_runner.__file__)]
            if self.push:
                _local([*self.push, *map(str, everything), folder], self.name)
            else:
                self.run(f"tar -xf - -C {shlex.quote(folder)}", _tar(everything))
            self._check()
            yield folder
        finally:
            self.run(f"rm -rf {shlex.quote(folder)}")

    def worker(self, folder: str) -> list[str]:
        """Return the local command that starts the runner in a folder of the device."""
        runner = Path(device_runner.__file__).name
        return [*self.shell, f"cd {shlex.quote(folder)} && exec {shlex.quote(self.python)} -u {runner}"]

    def _check(self) -> None:
        try:
            self.run(f"{shlex.quote(self.python)} -c 'import numpy, onnxruntime'")
        except ExportError as error:
            raise ExportError(
                f"{self.name}: {self.python} there cannot import numpy and onnxruntime; install them "
                f"({self.python} -m pip install numpy onnxruntime), or specify another with --python ({error})"
            ) from error


def parse_target(text: str, python: str = "python3") -> Target:
    """Parse ``ssh://[user@]host[:port]``, ``adb`` or ``adb:SERIAL``; raise UsageError for anything else."""
    kind, _, serial = text.partition(":")
    if kind == "adb" and not serial.startswith("//"):
        adb = (_program("adb"), *(("-s", serial) if serial else ()))
        return Target(text, (*adb, "shell"), (*adb, "push"), python)
    url = urlsplit(text)
    try:
        port = url.port
    except ValueError:
        port = -1
    if url.scheme != "ssh" or not url.hostname or url.path.strip("/") or port == -1 or url.password:
        hint = nearest(text.partition(":")[0], ["ssh", "adb"])
        raise UsageError(f"--target {text}: use ssh://user@host, ssh://user@host:port, adb or adb:SERIAL{hint}")
    where = url.netloc if url.port is None else url.netloc.rpartition(":")[0]
    where = where.replace("[", "").replace("]", "")  # IPv6 brackets; ssh aliases are case-sensitive
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", *(["-p", str(port)] if port else [])]
    return Target(text, (_program("ssh"), *options, "--", where), None, python)


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise UsageError(f"--target requires {name}, which is not installed; install it, or run on this machine")
    return found


def _tar(files: Sequence[Path]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for file in files:
            tar.add(file, file.name)
    return packed.getvalue()


def _local(command: list[str], name: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=600, check=False)
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"{name} did not respond within {error.timeout:.0f} s; check the connection") from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if said else f"exit code {done.returncode}"
        raise ExportError(f"{name} failed: {why}; check that the device is on and accepts your login")
    return done
