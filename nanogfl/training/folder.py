"""A run's folder: what it holds, whether it may be used, and what is written into it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from nanogfl.errors import UsageError
from nanogfl.recipe import Recipe, to_dict
from nanogfl.wholefile import whole_file

LEFT = ("best.ckpt", "last.ckpt", "config.yaml", "metrics.csv", "summary.json")


@dataclass(frozen=True)
class Folder:
    """A run's folder, and whether this run goes on with what lies there."""

    path: Path
    resume: bool
    overwrite: bool = False

    def clear(self) -> None:
        """Remove the run that is to be overwritten: only now, when the new one is ready to start."""
        if self.overwrite:
            for name in LEFT:
                (self.path / name).unlink(missing_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.path / name


def open_folder(path: Path, resume: bool, overwrite: bool) -> Folder:
    """Refuse a folder that holds a run, unless told what to do with it."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other; give one")
    if not is_main():
        return Folder(path, resume)
    there = [name for name in LEFT if (path / name).exists()]
    if there and not (resume or overwrite):
        raise UsageError(
            f"--out {path} holds a run ({', '.join(there)}); add --resume or --overwrite, or name another folder"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {path}: {error.strerror}; name a folder that can be written") from error
    return Folder(path, resume, overwrite)


def finished(folder: Folder, recipe: Recipe) -> bool:
    """Whether the run in this folder has done all epochs that the recipe asks for."""
    summary = folder / "summary.json"
    if not summary.is_file() or not (folder / "best.ckpt").is_file():
        return False
    try:
        return json.loads(summary.read_text())["epochs"] >= (recipe.train.epochs or 0)
    except (ValueError, KeyError, TypeError):
        return False


def write_config(path: Path, recipe: Recipe) -> None:
    """The resolved recipe, as YAML."""
    import yaml

    with whole_file(path) as partial:
        partial.write_text(yaml.safe_dump(to_dict(recipe), sort_keys=False), encoding="utf-8")


def is_main() -> bool:
    """Whether this is the process that writes."""
    return all(int(os.environ.get(name, "0") or 0) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))
