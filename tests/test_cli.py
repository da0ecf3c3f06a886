"""The command line: exit codes, one line for each error, help without torch, outputs where they were asked for."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from models import NAMES, write_models, write_scene
from runs import block_picture, write_coco

import nanogfl
from nanogfl.cli import app, main
from nanogfl.errors import UsageError

GROUP: Any = typer.main.get_command(app)
VERBS = sorted(GROUP.commands)
TRAIN_ONLY = ["torch", "pytorch_lightning", "onnx", "yaml", "pycocotools", "PIL", "matplotlib"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """best.ckpt, model.onnx, a.png, and a set of three pictures; nobody writes here."""
    folder = tmp_path_factory.mktemp("cli")
    write_models(folder, (64, 64))
    write_scene(folder / "a.png")
    rng = np.random.default_rng(0)
    write_coco(folder / "set", {"": [block_picture(rng) for _ in range(3)]})
    return folder


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter: this one has imported torch for other tests."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


# --- help ---


def test_bare_shows_help(command: Callable[..., Any]) -> None:
    bare = command()
    assert bare == command("--help")
    assert bare.code == 0 and bare.err == "" and bare.out.startswith("Usage: nanogfl ")
    assert all(f"\n  {verb} " in bare.out for verb in VERBS)
    assert "nanogfl quickstart" in bare.out


def test_the_verbs() -> None:
    assert VERBS == [
        "bench", "check", "eval", "export", "info", "mine", "predict", "quickstart", "train", "verify", "web", "webcam",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str, command: Callable[..., Any]) -> None:
    said = command(verb, "--help")
    assert said.code == 0 and said.err == ""
    assert said.out.startswith(f"Usage: nanogfl {verb} ")
    example = said.out.partition("\n  Example: ")[2]
    assert example.startswith(f"nanogfl {verb}") and "\n\n" not in example.strip(), "an example at the end"
    for parameter in GROUP.commands[verb].params:
        assert parameter.help and parameter.help.strip().endswith("."), f"{parameter.name} has no sentence of help"
        shown = [*parameter.opts, *parameter.secondary_opts]
        assert all(name in said.out for name in shown if name.startswith("-"))


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_in_help_is_a_command(verb: str) -> None:
    words = GROUP.commands[verb].epilog.removeprefix("Example: nanogfl ").split()
    assert words[0] == verb
    context = GROUP.commands[verb].make_context(verb, words[1:])
    assert context.params


OWN_WORDS = {  # options that name what the verb makes, or takes
    "--out": ("quickstart", "train", "export"),
    "--seed": ("quickstart", "train"),
    "--json": ("info",),  # prints
    "--report": ("check", "eval"),  # a page; a folder
    "--batch": ("train", "export"),
    "--sigma": ("predict", "export", "webcam"),
    "--draw": ("predict", "mine"),
    "--data": ("export", "verify", "bench"),
    "model": ("web",),  # a browser runs exported files only
}


def test_options_mean_the_same_in_every_verb() -> None:
    """One help text for an option of one name, but for those that are listed above, each of which has its own."""
    texts: dict[str, dict[str, str]] = {}
    for verb in VERBS:
        for parameter in GROUP.commands[verb].params:
            texts.setdefault(parameter.opts[0], {})[verb] = parameter.help
    for option, by_verb in texts.items():
        own = OWN_WORDS.get(option, ())
        alike = {by_verb[verb] for verb in by_verb if verb not in own}
        assert len(alike) <= 1, f"{option}: {alike}"
        assert len(alike | {by_verb[verb] for verb in own}) == len(alike) + len(own), f"{option} needs no exception"


def test_help_is_answered_without_torch() -> None:
    code = """
import sys
from nanogfl.cli import main
for verb in sys.argv[1:]:
    try:
        main([verb, "--help"])
    except SystemExit as left:
        assert left.code == 0
loaded = {name.partition(".")[0] for name in sys.modules}
print("LOADED", *sorted(loaded & {"torch", "pytorch_lightning", "onnx", "onnxruntime", "cv2"}))
"""
    done = python(code, *VERBS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"


# --- errors ---


def errors(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("error: ")]


USAGE = [
    (["trian", "x"], ["trian", "train", "nanogfl --help"], "an unknown command: the nearest is named"),
    (["exprot"], ["exprot", "export"], "another"),
    (["info", "m.onnx", "--jsn"], ["--jsn", "--json", "nanogfl info --help"], "an unknown option: the nearest"),
    (["info"], ["'file'", "nanogfl info --help"], "a missing argument"),
    (["predict", "m.onnx"], ["'source'", "nanogfl predict --help"], "a missing argument"),
    (["train", "x"], ["--out", "nanogfl train --help"], "a missing option"),
    (["info", "m.onnx", "another"], ["another"], "an argument too many"),
    (["train", "x", "--out"], ["--out"], "an option without its value"),
    (["train", "x", "--out", "run", "--epochs", "many"], ["--epochs", "integer"], "a word for a number"),
    (["train", "x", "--out", "run", "--batch", "1.5"], ["--batch", "integer"], "a fraction for a whole number"),
    (["predict", "m.onnx", "a.png", "--score", "high"], ["--score", "number"], "a word for a number"),
    (["train", "x", "--out", "run", "--set", "train.epocs=3"], ["train.epocs", "did you mean epochs?"], "no such key"),
    (["train", "x", "--out", "run", "--set", "trian.epochs=3"], ["trian", "did you mean train?"], "no such part"),
    (["train", "x", "--out", "run", "--set", "train.lr=fast"], ["train.lr", "fast"], "a word for a number"),
    (["train", "x", "--out", "run", "--set", "epochs"], ["--set epochs", "key.path=value"], "no ="),
    (["train", "x", "--out", "run", "--set", "=3"], ["--set =3", "key.path=value"], "no key"),
    (["train", "x", "--out", "run", "--set", "train.lr=[1"], ["--set train.lr=[1", "YAML"], "no YAML"),
    (["train", "x", "--out", "run", "--epochs", "-1"], ["epochs", "at least 1"], "negative"),
    (["train", "x", "--out", "run", "--epochs", "0"], ["epochs", "at least 1"], "no epoch"),
    (["train", "x", "--out", "run", "--batch", "0"], ["batch", "at least 1"], "no picture"),
    (["train", "x", "--out", "run", "--size", "xxl"], ["size", "xxl"], "no such size"),
    (["train", "x", "--out", "run", "--freeze", "head"], ["freeze", "head"], "only the backbone"),
    (["train", "x", "--out", "run", "--recipe", "quikstart"], ["--recipe quikstart", "quickstart"], "no such recipe"),
    (["train", "x", "--out", "run", "--recipe", "no.yaml"], ["--recipe no.yaml"], "no such file"),
    (["train", "x", "--out", "run", "--resume", "--overwrite"], ["--resume", "--overwrite"], "either or"),
    (["export", "best.ckpt", "--out", "m.onnx", "--input", "0"], ["--input 0", "64x64"], "no such size"),
    (["export", "best.ckpt", "--out", "m.onnx", "--input", "wide"], ["--input wide", "256x416"], "no size"),
    (["predict", "model.onnx", "a.png", "--input", "96"], ["--input 96x96", "64x64"], "a file's size is fixed"),
    (["info", "nanodet-plus-m_415"], ["nanodet-plus-m_415", "did you mean"], "no such file, and no such name"),
    (["train", "set", "--out", ""], ["after --out", "empty"], "an unset variable is not the current folder"),
    (["train", "set", "--out="], ["after --out", "empty"], "nor so"),
    (["predict", "", "a.png"], ["after predict", "empty"], "nor as an argument"),
]


@pytest.mark.parametrize(("arguments", "words", "reason"), USAGE, ids=[" ".join(u[0]) for u in USAGE])
def test_usage_errors_are_one_line_and_code_2(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
    arguments: list[str],
    words: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = command(*(folder / a if (folder / a).is_file() else a for a in arguments))
    assert said.code == 2 and said.out == "", reason
    (line,) = errors(said.err)
    assert said.err == line + "\n" and all(word in line for word in words), line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing was written"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["info", "m.onnx", "--" + "x" * 5000], 2),
        (["x" * 5000], 2),
        (["info", "m.onnx", "x" * 5000], 2),
        (["info", "x" * 5000 + ".onnx"], 1),
    ],
    ids=["an option", "a verb", "an argument too many", "a name longer than any file's"],
)
def test_whatever_is_quoted_the_line_has_a_thousand_letters(
    command: Callable[..., Any], arguments: list[str], code: int
) -> None:
    said = command(*arguments)
    assert said.code == code and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert " ... " in said.err and len(said.err) < 1020
    assert code == 1 or said.err.endswith(" --help\n"), "the end is kept"


def test_a_wrong_input_is_said_before_the_data_is_read(command: Callable[..., Any], tmp_path: Path) -> None:
    said = command("train", tmp_path / "no set", "--out", tmp_path / "run", "--input", "0")
    assert said.code == 2 and "--input 0" in said.err


def test_a_refused_run_leaves_no_folder(command: Callable[..., Any], tmp_path: Path) -> None:
    assert command("train", "x", "--out", tmp_path / "run", "--epochs", "-1").code == 2
    assert not (tmp_path / "run").exists()


MISSING = [
    ["predict", "no.onnx", "a.png"],
    ["predict", "model.onnx", "no.png"],
    ["info", "no.onnx"],
    ["verify", "best.ckpt", "no.onnx"],
    ["eval", "best.ckpt", "no set"],
    ["train", "no set", "--out", "run"],
    ["export", "best.ckpt", "--out", "m.onnx", "--data", "no set"],
]


@pytest.mark.parametrize("arguments", MISSING, ids=[" ".join(a) for a in MISSING])
def test_what_is_missing_is_named_and_code_1(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    said = command(*(folder / a if (folder / a).is_file() else a for a in arguments))
    (line,) = errors(said.err)
    assert said.code == 1 and said.out == "" and "unexpected" not in line
    assert next(a for a in arguments if a.startswith("no")) in line


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    code = "import sys; from nanogfl.cli import main; main(sys.argv[1:])"
    plain, debug = (python(code, "info", tmp_path / "no.onnx", *extra) for extra in ([], ["--debug"]))
    assert plain.returncode == debug.returncode == 1
    assert plain.stderr == f"error: {tmp_path / 'no.onnx'}: no such file; check the path\n" and not plain.stdout
    assert "Traceback (most recent call last)" in debug.stderr and "no.onnx: no such file" in debug.stderr


def test_the_version_is_the_packages(command: Callable[..., Any]) -> None:
    assert command("--version") == (0, f"nanogfl {nanogfl.__version__}\n", "")
    assert command("-h").out == command("--help").out and "--debug" in command("-h").out


@pytest.mark.parametrize("option", [["--hold", "3"], ["--no-smooth"]])
def test_what_only_tracking_uses_is_refused_without_it(option: list[str], command: Callable[..., Any]) -> None:
    said = command("webcam", "m.onnx", "--source", "0", *option)
    assert said.code == 2 and "require --track; add it" in said.err


@pytest.mark.parametrize("arguments", [["--debug", "info", "no.onnx"], ["info", "--debug", "no.onnx"]])
def test_debug_may_stand_anywhere_and_changes_no_exit_code(
    arguments: list[str], loggers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left, warnings.catch_warnings():
        main([*arguments, "--input", "416"])
    assert left.value.code == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "Traceback (most recent call last):" and last.startswith("error: No such option: --input")


@pytest.fixture
def loggers() -> Iterator[None]:
    """Our logger is put back as it was."""
    own = logging.getLogger("nanogfl")
    handlers, level, propagate = own.handlers[:], own.level, own.propagate
    yield
    own.handlers[:] = handlers
    own.setLevel(level)
    own.propagate = propagate


def test_main_may_be_called_again(loggers: None) -> None:
    own = logging.getLogger("nanogfl")
    before = len(own.handlers)
    for _ in range(3):
        with pytest.raises(SystemExit), warnings.catch_warnings():
            main(["--help"])
    assert len(own.handlers) <= before + 1


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 1, "error: interrupted; no incomplete files were left\n"),
        (UsageError("a\nb   c"), 2, "error: a b c\n"),
        (PermissionError(13, "Permission denied", "x.png"), 1, "error: x.png: Permission denied; check the path"),
        (OSError(28, "No space left on device"), 1, "error: a file: No space left on device; check the path"),
        (
            ModuleNotFoundError("No module named 'yaml'", name="yaml"),
            1,
            "error: this command requires more than the runtime (yaml is missing): pip install",
        ),
        (RuntimeError("one\n  two"), 1, "error: unexpected RuntimeError: one two; re-run it with --debug"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_whatever_is_raised_is_one_line(
    monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any], raised: BaseException, code: int, line: str
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise raised

    monkeypatch.setattr("nanogfl.predictor.load", fails)
    said = command("info", "model.onnx")
    assert said.code == code and said.err.startswith(line) and said.err.count("\n") == bool(line)
    assert "Traceback" not in said.err


def test_a_reader_who_leaves_is_an_invalid_argument_on_windows(
    monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    def refuses(_: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("typer.echo", refuses)
    said = command("--version")
    assert (said.code, said.err) == (1, "")


# --- without [train] ---

BLOCKED = f"""
import sys
for name in {TRAIN_ONLY!r}:
    sys.modules[name] = None
from nanogfl.cli import main
main(sys.argv[1:])
"""


def test_an_exported_file_needs_nothing_of_train(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    options = ["--json", out, "--draw", tmp_path / "drawn", "--score", 0.05]
    done = python(BLOCKED, "predict", folder / "model.onnx", folder / "a.png", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())[0]["detections"] and (tmp_path / "drawn" / "a.png").is_file()


@pytest.mark.parametrize(
    "arguments", [["info", "best.ckpt"], ["train", "set", "--out", "run"], ["eval", "model.onnx", "set"]]
)
def test_what_needs_train_says_so(folder: Path, tmp_path: Path, arguments: list[str]) -> None:
    done = python(BLOCKED, *(folder / a if (folder / a).exists() else a for a in arguments))
    (line,) = errors(done.stderr)
    assert done.returncode == 1 and "pip install 'nanogfl[train]'" in line and "Traceback" not in done.stderr


# --- what verbs say and write ---


def test_info(folder: Path, command: Callable[..., Any]) -> None:
    for name, kind in (("best.ckpt", "nanogfl checkpoint"), ("model.onnx", "ONNX, form frame, fp32")):
        text, as_json = command("info", folder / name), command("info", folder / name, "--json")
        assert text.code == as_json.code == 0 and text.err == as_json.err == ""
        card = json.loads(as_json.out)
        assert card["classes"] == list(NAMES) and card["input_size"] == [64, 64] and card["kind"] == kind
        lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.out.splitlines() if " " in line.strip()}
        assert lines["classes"] == "red, green, blue" and lines["kind"] == kind and lines["input_size"] == "64, 64"
        assert {line.split()[0] for line in text.out.splitlines()} == set(card)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([f"class_{i:02}" for i in range(80)], ", ".join(f"class_{i:02}" for i in range(40)) + " and 40 more"),
        (["x" * 500, "y"], "x" * 400 + " ... and 1 more"),
        (["x" * 398], "x" * 398),
        ("x" * 500, "x" * 400 + " ..."),
        ({"a": "b", "c": [1, 2]}, "a: b, c: [1, 2]"),
        ([], ""),
    ],
)
def test_info_says_how_much_more_there_is(
    value: Any, shown: str, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogfl.predictor.load", lambda *_, **__: SimpleNamespace(describe=lambda: {"it": value}))
    assert command("info", "model.onnx").out == f"it           {shown}\n"


def test_eval_writes_its_json_into_a_new_folder(folder: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    out = tmp_path / "not" / "there" / "scores.json"
    said = command("eval", folder / "model.onnx", folder / "set", "--split", "all", "--json", out)
    assert said.code == 0, said
    scores = json.loads(out.read_text())
    numbers = ["AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L"]
    assert set(scores) >= {"images", "per_class", *numbers} and scores["images"] == 3
    assert all(scores[key] is None or 0 <= scores[key] <= 1 for key in numbers)
    assert set(scores["per_class"]) == set(NAMES)
    assert all({"AP", "AP50", "boxes"} <= set(values) for values in scores["per_class"].values())
    assert sum(values["boxes"] for values in scores["per_class"].values()) == 6
    assert "AP50" in said.out and [p.name for p in out.parent.iterdir()] == ["scores.json"]


def test_eval_is_the_same_from_checkpoint_and_file(folder: Path, command: Callable[..., Any]) -> None:
    tables = [command("eval", folder / m, folder / "set", "--split", "all").out for m in ("best.ckpt", "model.onnx")]
    assert tables[0] == tables[1] != ""


def test_the_program_and_the_module_are_one() -> None:
    """``nanogfl`` on the PATH, and ``python -m nanogfl`` where it is not, are ``nanogfl.cli:main``."""
    program = Path(sys.executable).with_name("nanogfl")
    starts = [[sys.executable, "-m", "nanogfl"], *([[str(program)]] if program.is_file() else [])]
    for start in starts:
        done = subprocess.run([*start, "trian"], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and len(errors(done.stderr)) == 1 and done.stdout == ""


# --- where the words go ---


def leaves_early(*arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a program whose reader is gone before it says a word."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "nanogfl", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        said = program.stderr.read().decode()
        return program.wait(timeout=120), said


def test_a_reader_who_leaves_ends_what_is_only_said(folder: Path) -> None:
    assert leaves_early("info", folder / "model.onnx") == (1, "")


def test_a_reader_who_leaves_does_not_end_what_is_written(folder: Path, tmp_path: Path) -> None:
    found, drawn = tmp_path / "found.json", tmp_path / "drawn"
    pictures = folder / "set" / "images"
    code, said = leaves_early("predict", folder / "model.onnx", pictures, "--json", found, "--draw", drawn)
    assert (code, said) == (0, "")
    files = sorted(path.name for path in pictures.iterdir())
    assert [Path(record["file"]).name for record in json.loads(found.read_text())] == files
    assert sorted(path.name for path in drawn.iterdir()) == files


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_where_the_words_do_not_fit_one_line_says_so(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "nanogfl", "info", str(folder / "model.onnx")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    (line,) = errors(done.stderr)
    assert done.returncode == 1 and "No space left on device" in line and done.stderr.count("\n") == 1


def test_letters_that_the_terminal_lacks_are_spelt_out(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    for name, printed in (("größe", b"gr\xf6\xdfe"), ("猫", rb"\u732b")):
        copy = tmp_path / f"{name}.onnx"
        copy.write_bytes((folder / "model.onnx").read_bytes())
        command = [sys.executable, "-m", "nanogfl", "info", str(copy)]
        done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
        assert done.returncode == 0 and done.stderr == b"" and printed in done.stdout
