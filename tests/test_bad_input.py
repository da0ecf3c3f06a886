"""Bad input gets one line and an exit code, never a traceback, and runs no code that came with it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import write_checkpoint, write_scene
from runs import block_picture, write_coco


class Evil:
    """A pickle that leaves a file behind where it is loaded as code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "pwned"),)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything that is broken, beside a good checkpoint, picture and set."""
    d = tmp_path_factory.mktemp("bad")
    write_scene(d / "good.png")
    good = write_checkpoint(d / "good.ckpt", input_size=(64, 64))
    rng = np.random.default_rng(0)
    write_coco(d / "set", {"": [block_picture(rng) for _ in range(4)]})
    (d / "empty").mkdir()
    files = {
        "not.jpg": b"\xff\xd8 no picture",
        "zero.png": b"",
        "x.onnx": b"no model",
        "x.ckpt": b"no model",
        "zero.ckpt": b"",
        "evil.ckpt": pickle.dumps({"state_dict": Evil(d)}),
        "cut.ckpt": good.read_bytes()[:20000],
        "list.json": b"[1,2",
        "str.json": b'{"images":"x","annotations":3,"categories":{}}',
        "number.json": b"7",
        "binary.json": bytes(range(256)),
        "bad.yml": b"data: {val: 3}",
        "data.yaml": b"train: [",
    }
    for name, content in files.items():
        (d / name).write_bytes(content)
    torch.save({"state_dict": Evil(d)}, d / "evil_zip.ckpt")
    torch.save([1, 2], d / "a_list.ckpt")
    torch.save({"state_dict": {}}, d / "no_tensors.ckpt")
    content = torch.load(good, weights_only=True)
    torch.save(content | {"nanogfl": content["nanogfl"] | {"schema": 99}}, d / "newer.ckpt")
    torch.save(content | {"nanogfl": {"schema": 1}}, d / "no_card.ckpt")
    torch.save({"nanogfl": content["nanogfl"]}, d / "no_state.ckpt")
    wider = content["nanogfl"] | {"architecture": content["nanogfl"]["architecture"] | {"size": "m"}}
    torch.save(content | {"nanogfl": wider}, d / "other_size.ckpt")
    return d


# arguments, exit code, what the line says; words that name something here become its path, "new/" is an empty folder
CASES: list[tuple[str, int, str]] = [
    ("predict no.ckpt good.png", 2, "no.ckpt"),
    ("predict good.ckpt no.jpg", 1, "no.jpg"),
    ("predict good.ckpt not.jpg", 1, "cannot decode the picture"),
    ("predict good.ckpt zero.png", 1, "cannot decode the picture"),
    ("predict good.ckpt empty", 1, "no picture or video"),
    ("predict x.onnx good.png", 1, "not an ONNX model"),
    ("predict x.ckpt good.png", 1, "not a checkpoint"),
    ("predict zero.ckpt good.png", 1, "checkpoint"),
    ("predict evil.ckpt good.png", 1, "could run code; it was not loaded"),
    ("predict evil_zip.ckpt good.png", 1, "could run code; it was not loaded"),
    ("predict cut.ckpt good.png", 1, "damaged"),
    ("predict a_list.ckpt good.png", 1, "it contains a list"),
    ("predict no_tensors.ckpt good.png", 1, "not a supported detector"),
    ("predict newer.ckpt good.png", 1, "has schema 99"),
    ("predict no_card.ckpt good.png", 1, "has invalid metadata"),
    ("predict no_state.ckpt good.png", 1, "contains no state_dict"),
    ("predict other_size.ckpt good.png", 1, "check its size"),
    ("predict empty good.png", 2, "empty"),
    ("eval good.ckpt empty", 1, "empty"),
    ("eval good.ckpt list.json", 1, "list.json"),
    ("eval good.ckpt str.json", 1, "str.json"),
    ("eval good.ckpt number.json", 1, "number.json"),
    ("eval good.ckpt binary.json", 1, "binary.json"),
    ("eval good.ckpt data.yaml", 1, "data.yaml"),
    ("eval good.ckpt not.jpg", 1, "not.jpg"),
    ("eval x.onnx set", 1, "not an ONNX model"),
    ("eval good.ckpt set --split tset", 2, "tset"),
    ("train empty --out new/run", 1, "empty"),
    ("train set --out new/run --set train.epocs=3", 2, "did you mean epochs?"),
    ("train set --out new/run --epochs -1", 2, "at least 1"),
    ("train set --out new/run --init x.ckpt", 1, "not a checkpoint"),
    ("train set --out new/run --init evil.ckpt", 1, "could run code"),
    ("train set --out new/run --size xxl", 2, "xxl"),
    ("train set --out new/run --input 0", 2, "--input 0"),
    ("train set --out new/run --input 100", 2, "96x96"),
    ("train set --out good.png", 2, "good.png"),
    ("export x.ckpt --out new/o.onnx", 1, "not a checkpoint"),
    ("export evil.ckpt --out new/o.onnx", 1, "could run code"),
    ("export good.ckpt --out new/o.onnx --input 7x7", 2, "--input 7x7"),
    ("info x.onnx", 1, "not an ONNX model"),
    ("info cut.ckpt", 1, "damaged"),
    ("verify good.ckpt x.onnx", 1, "not an ONNX model"),
    ("verify good.ckpt good.ckpt --data empty", 1, "empty"),
    ("trian x", 2, "train"),
]


@pytest.mark.parametrize(("line", "code", "said"), CASES, ids=[case[0] for case in CASES])
def test_one_line_and_a_code(
    given: Path, tmp_path: Path, command: Callable[..., Any], line: str, code: int, said: str
) -> None:
    words = [tmp_path / w[4:] if w.startswith("new/") else given / w if (given / w).exists() else w
             for w in line.split()]  # fmt: skip
    before = sorted(given.rglob("*"))
    left = command(*words)
    errors = [text for text in left.err.splitlines() if text.lower().startswith("error:")]
    assert left.code == code and len(errors) == 1 and said in errors[0], left
    assert "Traceback" not in left.err + left.out and "unexpected" not in errors[0], left
    assert sorted(given.rglob("*")) == before, "nothing was written beside the input"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".yaml"]
    assert not (given / "pwned").exists(), "code in a pickle ran"


def test_a_config_that_is_missing_is_said_for_every_checkpoint(given: Path, command: Callable[..., Any]) -> None:
    assert command("info", given / "good.ckpt", "--config", given / "no.yml").code == 2


def dirty(given: Path, root: Path) -> Path:
    """The good set with a picture gone, a broken one, and boxes that are none."""
    rng = np.random.default_rng(1)
    write_coco(root, {"": [block_picture(rng) for _ in range(5)]})
    path = root / "annotations" / "everything.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [float("nan"), 0, 1, 1]
    content["annotations"][2]["bbox"] = [5, 5, -3, 4]
    path.write_text(json.dumps(content))
    (root / "images" / "002.png").unlink()
    return root


def test_a_dirty_set_is_evaluated_with_a_word_or_refused_in_one_line(
    given: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    left = command("eval", given / "good.ckpt", dirty(given, tmp_path / "dirty"), "--split", "all")
    assert "Traceback" not in left.err and "unexpected" not in left.err
    if left.code:
        assert left.code == 1 and left.err.count("error: ") == 1
    else:
        assert "warning: " in left.err
