"""Classes that Lightning before 1.5 names in a checkpoint, as keys of its callbacks' states; nothing of them is run.

NanoDet trained with such versions. Loading as data only refuses a class that it does not know, so that empty ones of
their names are made known.
"""

from __future__ import annotations

from functools import cache

from torch.serialization import add_safe_globals

CALLBACKS = {
    "early_stopping": "EarlyStopping",
    "gpu_stats_monitor": "GPUStatsMonitor",
    "lr_monitor": "LearningRateMonitor",
    "model_checkpoint": "ModelCheckpoint",
    "progress": "ProgressBar",
    "timer": "Timer",
}


@cache
def make_known() -> None:
    """Let ``torch.load(..., weights_only=True)`` read past them."""
    add_safe_globals(
        [type(name, (), {"__module__": f"pytorch_lightning.callbacks.{room}"}) for room, name in CALLBACKS.items()]
    )
