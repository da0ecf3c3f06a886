"""nanogfl bench --target: the same table from a device: a real sshd on loopback, and an adb that stands in for one."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from models import write_models

from nanogfl.deploy import bench as bench_module
from nanogfl.deploy import device_runner
from nanogfl.deploy.bench import bench
from nanogfl.deploy.targets import PREFIX, parse_target
from nanogfl.errors import ExportError, UsageError

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
ADB = """#!/bin/sh
# adb of one device, whose /data/local/tmp is a folder here
[ "$1" = -s ] && {{ echo "$2" > {root}/serial; shift 2; }}
case "$1" in
  shell) shift; exec sh -c "$(echo "$*" | sed 's#/data/local/tmp#{root}/tmp#g')" ;;
  push) shift; for last; do :; done; while [ $# -gt 1 ]; do cp "$1" "$last"; shift; done; echo pushed ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An exported file of 64 px."""
    folder = tmp_path_factory.mktemp("device")
    write_models(folder, (64, 64))
    return str(folder / "model.onnx")


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its root; the program is the first on PATH."""
    (tmp_path / "tmp").mkdir()
    program = tmp_path / "bin/adb"
    program.parent.mkdir()
    program.write_text(ADB.format(root=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address on loopback that lets one key in; ssh on PATH is the real one with that key."""
    real = shutil.which("ssh")
    if not SSHD or not real or not shutil.which("ssh-keygen"):
        pytest.skip("sshd or ssh is not installed (Debian: openssh-server)")
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [f"HostKey={tmp_path}/host", f"AuthorizedKeysFile={tmp_path}/user.pub", "StrictModes=no", "UsePAM=no"]
    settings += [f"PidFile={tmp_path}/pid", f"Port={port}", "ListenAddress=127.0.0.1", "PermitRootLogin=yes"]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    options = [word for setting in settings for word in ("-o", setting)]
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", "/dev/null", *options], stderr=subprocess.DEVNULL)
    wrapper = tmp_path / "bin/ssh"
    wrapper.parent.mkdir()
    known = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o IdentitiesOnly=yes"
    wrapper.write_text(f'#!/bin/sh\nexec {real} -F /dev/null -i {tmp_path}/user {known} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for _ in range(100):
        if server.poll() is not None:
            pytest.skip("sshd does not start here")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
    server.terminate()
    server.wait()


def test_over_adb(model: str, adb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "ROUNDS", 1)
    card = bench([model], target="adb:SERIAL1", python=sys.executable)
    (row,) = card.rows
    assert (row["runtime"], row["threads"], row["AP"], row["ratio"]) == ("onnxruntime", 1, None, 1.0)
    assert row["parity"]["pictures"] == 6 and row["parity"]["boxes"] > 0 and row["parity"]["box_px"] < 0.1
    assert row["network_p50_ms"] > 0 and row["frame_p50_ms"] > 0 and row["peak_mb"] > 20
    assert card.machine["target"] == "adb:SERIAL1" and "onnxruntime" in card.machine["versions"]
    assert (adb / "serial").read_text().strip() == "SERIAL1"
    assert list((adb / "tmp").iterdir()) == [], "nothing is left on the device"


def test_over_ssh(model: str, ssh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "ROUNDS", 1)
    before = set(Path("/tmp").glob(f"{PREFIX}*"))
    card = bench([model], target=ssh, python=sys.executable, threads=[1, 2])
    assert [(row["runtime"], row["threads"]) for row in card.rows] == [("onnxruntime", 1), ("onnxruntime", 2)]
    assert all(row["parity"]["raw"] < 1e-5 for row in card.rows)
    assert not [p for p in set(Path("/tmp").glob(f"{PREFIX}*")) - before if (p / "device_runner.py").exists()]


def test_a_device_without_onnxruntime(model: str, adb: Path) -> None:
    with pytest.raises(ExportError, match="cannot import numpy and onnxruntime"):
        bench([model], target="adb", python="/bin/false")
    assert list((adb / "tmp").iterdir()) == []


def test_no_device(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "adb"
    program.write_text("#!/bin/sh\necho 'adb: no devices/emulators found' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ExportError, match="no devices/emulators found"):
        bench([model], target="adb")


def test_adb_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="requires adb"):
        parse_target("adb")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("ssh://pi", ["--", "pi"]),
        ("ssh://u@pi", ["--", "u@pi"]),
        ("ssh://u@pi:22/", ["-p", "22", "--", "u@pi"]),
        ("ssh://MyPi", ["--", "MyPi"]),
        ("ssh://u@[::1]:22", ["-p", "22", "--", "u@::1"]),
    ],
)
def test_addresses(text: str, where: list[str]) -> None:
    if not shutil.which("ssh"):
        pytest.skip("ssh is not installed")
    assert list(parse_target(text).shell[-len(where) :]) == where


@pytest.mark.parametrize(
    "text", ["", "pi", "ssh:pi", "ssh://", "ssh://u:secret@pi", "ssh://pi/folder", "shs://pi", "adb://x"]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(UsageError, match="--target"):
        parse_target(text)


def test_the_runner_needs_nothing_of_nanogfl() -> None:
    source = Path(device_runner.__file__).read_text()
    imported = {
        line.split()[1].split(".")[0] for line in source.splitlines() if line.lstrip().startswith(("import ", "from "))
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
