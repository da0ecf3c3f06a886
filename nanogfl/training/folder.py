"""The folder of a run: what it contains, whether it may be used, and what a starting run writes into it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from nanogfl.atomic import atomic_file
from nanogfl.errors import UsageError
from nanogfl.recipe import Recipe, load_recipe, to_dict

LEAVING_S = 10.0  # longer than a loader process takes to notice that its run has died
TENSORBOARD = "tensorboard"  # subfolder, present if TensorBoard is installed
WITHIN = "within.ckpt"  # the state within a long epoch; deleted at its end
LEFT = ("best.ckpt", "last.ckpt", "config.yaml", "metrics.csv", "summary.json")


@dataclass(frozen=True)
class Folder:
    """The folder of a run, and whether the run resumes or overwrites the one that is there."""

    path: Path
    resume: bool
    overwrite: bool = False
    held: list[int] = field(default_factory=list, compare=False)
    opened: float = field(default_factory=time.time, compare=False)

    def begin(self, recipe: Recipe) -> None:
        """Prepare the folder; called just before the first training step, so that a refused run changes nothing.

        A run that is to be overwritten is deleted. summary.json is always deleted: it exists only once a run has ended.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {self.path}: {error.strerror}; choose a writable folder") from error
        self._hold()
        for name in (*LEFT, WITHIN) if self.overwrite else ("summary.json",):
            (self.path / name).unlink(missing_ok=True)
        for events in (self.path / TENSORBOARD).glob("events.*"):
            if self.overwrite and events.stat().st_mtime < self.opened:  # this run's own file is already open
                events.unlink()
        write_config(self.path / "config.yaml", recipe)

    def _hold(self) -> None:
        """Lock out other runs until :meth:`leave`, waiting for a killed run that may still be exiting."""
        if os.name == "nt":  # cannot lock folders
            return
        self.held.append(os.open(self.path, os.O_RDONLY))
        end = time.monotonic() + LEAVING_S
        while not lock(self.held[-1]):
            if time.monotonic() > end:
                self.leave()
                raise UsageError(f"--out {self.path}: in use by another run; wait, or choose another folder")
            time.sleep(0.1)

    def leave(self) -> None:
        """Release the lock."""
        while self.held:
            os.close(self.held.pop())

    def __truediv__(self, name: str) -> Path:
        return self.path / name


def lock(descriptor: int) -> bool:
    """Try to lock the folder and return whether it succeeded; return True if the file system has no locks."""
    import fcntl  # not available on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def open_folder(path: Path, resume: bool, overwrite: bool) -> Folder:
    """Return the folder; refuse one that holds a run, unless ``resume`` or ``overwrite`` is given."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite cannot be combined; use one")
    if not is_main():
        return Folder(path, resume)
    there = [name for name in LEFT if (path / name).exists()]
    if there and not (resume or overwrite):
        raise UsageError(
            f"--out {path} already contains a run ({', '.join(there)}); "
            "add --resume or --overwrite, or choose another folder"
        )
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        why = "is not writable" if nearest.is_dir() else "is not a folder"
        raise UsageError(f"--out {path}: {nearest} {why}; choose a writable folder")
    return Folder(path, resume, overwrite)


def finished(folder: Folder, recipe: Recipe) -> bool:
    """Return whether the run here has ended and the recipe asks for no more epochs and no other patience."""
    summary, config = folder / "summary.json", folder / "config.yaml"
    if not all(path.is_file() for path in (summary, config, folder / "best.ckpt")):
        return False
    try:
        done = json.loads(summary.read_text())["epochs"]
    except (ValueError, KeyError, TypeError):
        return False
    asked, planned = recipe.train, load_recipe(str(config)).train
    stopped_early = (asked.epochs or 0) <= (planned.epochs or 0) and asked.patience == planned.patience
    return done >= (asked.epochs or 0) or stopped_early


def write_config(path: Path, recipe: Recipe) -> None:
    """Write the resolved recipe as YAML."""
    import yaml

    with atomic_file(path) as partial:
        partial.write_text(yaml.safe_dump(to_dict(recipe), sort_keys=False), encoding="utf-8")


def is_main() -> bool:
    """Return whether this is the process that writes files (rank 0)."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # set by torchrun, Lightning, srun
    return all(int(os.environ.get(name, "0") or 0) == 0 for name in ranks)
