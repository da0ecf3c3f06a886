"""Ctrl-C, a polite kill and a rude one, sent to real processes: one line, no half file, and a run that goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import different, read_rows

from nanogfl.training.failures import lost_peer

LEFT = ["best.ckpt", "config.yaml", "last.ckpt", "metrics.csv"]
SMALL = ["--size", "s", "--input", 64, "--batch", 4, "--set", "train.validate_every=1"]
START = """\
import signal, sys
from nanogfl.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that a shell runs in the background would ignore it
main(sys.argv[1:])
"""
PATIENCE_S = 240  # other programs may keep the cores busy


class Command:
    """``nanogfl ARGUMENTS`` in a process group of its own, as a terminal has it; ``before`` is Python to run first."""

    def __init__(self, folder: Path, *arguments: object, before: str = "") -> None:
        program = folder / "program.py"  # a file, so that a second process of a run can be started from it
        program.write_text(f"{before}\n{START}")
        self.said = folder / "said.txt"
        with self.said.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(program), *map(str, arguments)], stdout=out, stderr=out, start_new_session=True
            )

    def wait_for(self, path: Path) -> None:
        """Until a file is there."""
        end = time.monotonic() + PATIENCE_S
        while not path.exists():
            assert self.process.poll() is None and time.monotonic() < end, self.said.read_text()
            time.sleep(0.05)

    def end(self, number: signal.Signals, group: bool = False) -> tuple[int, str]:
        """Exit code and all that was said, after a signal to the process, or to its group as a terminal does."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        code = self.process.wait(PATIENCE_S)
        return code, self.said.read_text()


def only_error(said: str) -> str:
    """The one line of an error, and nothing from the libraries below."""
    lines = said.splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert "Traceback" not in said and "Exception" not in said
    assert error == lines[-1], said
    return error


def nobody_is_left(group: int) -> bool:
    """Whether all processes of a group end."""
    end = time.monotonic() + PATIENCE_S / 4
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def goes_on(out: Path, data: Path, epochs: int) -> None:
    """Assert that a run was left clean and comes to its end when it is resumed."""
    assert sorted(path.name for path in out.iterdir()) == LEFT
    torch.load(out / "last.ckpt", weights_only=True)
    command = Command(out.parent, "train", data, "--out", out, "--resume", "--epochs", epochs)
    assert command.process.wait(PATIENCE_S) == 0, command.said.read_text()
    assert json.loads((out / "summary.json").read_text())["epochs"] == epochs
    assert [row["epoch"] for row in read_rows(out)] == [str(epoch) for epoch in range(epochs)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_verb_that_is_interrupted_says_one_line(tmp_path: Path, number: signal.Signals) -> None:
    here = tmp_path / "here"
    slow = (
        "import pathlib, time, nanogfl.predictor\n"
        f"def load(*_, **__):\n    pathlib.Path({str(here)!r}).touch()\n    time.sleep(60)\n"
        "nanogfl.predictor.load = load"
    )
    command = Command(tmp_path, "info", "model.onnx", before=slow)
    command.wait_for(here)
    assert command.end(number) == (1, "error: interrupted; no incomplete files were left\n")


def test_a_training_that_is_terminated_goes_on(tiny_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = Command(tmp_path, "train", tiny_set, "--out", out, *SMALL, "--epochs", 500, "--set", "train.workers=0")
    command.wait_for(out / "last.ckpt")
    code, said = command.end(signal.SIGTERM)
    error = only_error(said)
    assert code == 1 and error.startswith("error: interrupted; epoch ")
    assert error.endswith(f" is incomplete: continue with --resume --out {out}")
    assert "GPU" not in said and "Tip" not in said and "Trainer" not in said, "Lightning is silent"
    goes_on(out, tiny_set, epochs=len(read_rows(out)) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("extra", [["train.workers=2"], ["train.devices=2", "train.workers=0"]], ids=["loaders", "two"])
@pytest.mark.parametrize("group", [True, False], ids=["terminal", "process"])
def test_all_processes_of_a_training_end_together(
    tiny_set: Path, tmp_path: Path, number: signal.Signals, extra: list[str], group: bool
) -> None:
    out = tmp_path / "run"
    options = [option for assignment in extra for option in ("--set", assignment)]
    command = Command(tmp_path, "train", tiny_set, "--out", out, *SMALL, "--epochs", 500, *options)
    command.wait_for(out / "last.ckpt")
    code, said = command.end(number, group)
    assert code == 1 and only_error(said).startswith("error: interrupted; epoch ")
    assert nobody_is_left(command.process.pid)
    goes_on(out, tiny_set, epochs=len(read_rows(out)) + 1)


@pytest.mark.slow
def test_a_training_that_is_interrupted_before_it_starts_leaves_nothing(tiny_set: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    slow = (
        "import pathlib, time\nfrom nanogfl.data.loader import TrainingSet\n"
        f"def prepare(*_):\n    pathlib.Path({str(here)!r}).touch()\n    time.sleep(60)\nTrainingSet.prepare = prepare"
    )
    command = Command(tmp_path, "train", tiny_set, "--out", tmp_path / "run", *SMALL, "--epochs", 1, before=slow)
    command.wait_for(here)
    code, said = command.end(signal.SIGINT)
    assert code == 1 and only_error(said) == "error: interrupted; no incomplete files were left"
    assert not (tmp_path / "run").exists()


def readable(out: Path) -> int:
    """Assert that what a kill left can be read; epochs that are on record."""
    for path in out.glob("*.ckpt"):
        torch.load(path, weights_only=True)
    rows = [int(row["epoch"]) for row in read_rows(out)] if (out / "metrics.csv").exists() else []
    assert rows == list(range(len(rows)))
    return len(rows)


def recorded(out: Path) -> int:
    """Lines of the log, its head included."""
    log = out / "metrics.csv"
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.mark.slow
def test_twenty_kills_change_nothing(tiny_set: Path, tmp_path: Path) -> None:
    """Killed at random moments, the start and the writing of files included, a run ends as one that never was."""
    moments, epochs = random.Random(0), 70
    options = ["train", tiny_set, *SMALL, "--set", "train.workers=0", "--epochs", epochs]
    whole, out = tmp_path / "whole", tmp_path / "run"
    began = time.monotonic()
    never_killed = Command(tmp_path, *options, "--out", whole)
    never_killed.wait_for(whole / "last.ckpt")
    start_s = time.monotonic() - began
    assert never_killed.process.wait(PATIENCE_S * 4) == 0
    epoch_s = (time.monotonic() - began - start_s) / epochs
    for number in range(20):
        before, gets_on = recorded(out), number % 2 == 0
        command = Command(tmp_path, *options, "--out", out, "--resume")
        while gets_on and recorded(out) == before:
            assert command.process.poll() is None, command.said.read_text()
            time.sleep(0.01)
        moment = time.monotonic() + moments.uniform(0, epoch_s if gets_on else start_s + epoch_s)
        while time.monotonic() < moment and recorded(out) < before + 2:  # however much faster the machine is by now
            time.sleep(0.01)
        assert command.end(signal.SIGKILL)[0] == -signal.SIGKILL, "it was killed before its end"
        assert readable(out) < epochs
    last_one = Command(tmp_path, *options, "--out", out, "--resume")
    assert last_one.process.wait(PATIENCE_S * 4) == 0, last_one.said.read_text()
    assert sorted(path.name for path in out.iterdir()) == [*LEFT, "summary.json"]
    curve = [[(row["epoch"], row["step"], row["lr"]) for row in read_rows(run)] for run in (out, whole)]
    assert len(curve[0]) == epochs and curve[0] == curve[1]
    ends = [torch.load(run / "last.ckpt", weights_only=True) for run in (out, whole)]
    assert different(ends[0]["state_dict"], ends[1]["state_dict"]) == []


def two_processes(data: Path, folder: Path, fault: str, epochs: int) -> Command:
    """A training in two processes, each of whose steps begins with this line; it sees ``task``."""
    before = (
        "from nanogfl.training.task import DetectionTask\noriginal = DetectionTask.training_step\n"
        f"def step(task, batch, i):\n    {fault}\n"
        "    return original(task, batch, i)\nDetectionTask.training_step = step"
    )
    two = ["--epochs", epochs, "--set", "train.devices=2", "--set", "train.workers=0"]
    return Command(folder, "train", data, "--out", folder / "run", *SMALL, *two, before=before)


@pytest.mark.slow
def test_a_loss_of_nan_in_one_of_two_processes_is_said_once(tiny_set: Path, tmp_path: Path) -> None:
    poison = "task.detector.backbone.conv1[0].weight.data[0] = float('nan')"
    command = two_processes(tiny_set, tmp_path, f"if task.global_rank and task.current_epoch == 2: {poison}", epochs=4)
    assert command.process.wait(PATIENCE_S) == 1
    error = only_error(command.said.read_text())  # names the batches of both, which share the losses' normalisers
    assert "became nan at epoch 3 in the batch of images/train/" in error and error.count("train/0") == 8
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.slow
def test_what_ends_one_of_two_processes_is_said_by_it_alone(tiny_set: Path, tmp_path: Path) -> None:
    full = "if task.global_rank == 0 and task.current_epoch == 1: raise OSError(28, 'full')"
    command = two_processes(tiny_set, tmp_path, full, epochs=3)
    assert command.process.wait(PATIENCE_S) == 1 and nobody_is_left(command.process.pid)
    assert only_error(command.said.read_text()).startswith("error: no space left for ")


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:59551. See its log", True),
        ("[gloo/transport/tcp/pair.cc:534] Connection reset by peer", True),
        ("Connection refused", False),
        ("No space left on device", False),
    ],
)
def test_which_error_only_says_that_another_process_ended(said: str, lost: bool) -> None:
    assert lost_peer(RuntimeError(said)) is lost


def test_ctrl_c_within_the_imports_is_one_line() -> None:
    """Nothing of ours has begun then; Python itself would show a traceback."""
    lines = [
        "import sys",
        "class Slow:",
        "    def find_spec(self, name, *_):",
        "        if name == 'typer': raise KeyboardInterrupt",
    ]
    code = "\n".join([*lines, "sys.meta_path.insert(0, Slow())", "from nanogfl.__main__ import main", "main()"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: interrupted; nothing was begun\n")
