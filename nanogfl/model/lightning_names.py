"""Placeholders for the callback classes that Lightning before 1.5 stores in checkpoints, as keys of callback states.

NanoDet was trained with these versions. ``torch.load(..., weights_only=True)`` refuses unknown classes, so empty
classes of the same names are registered; no code of Lightning is run.
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
def register_placeholders() -> None:
    """Register the placeholder classes, so that ``torch.load(..., weights_only=True)`` accepts them."""
    add_safe_globals(
        [type(name, (), {"__module__": f"pytorch_lightning.callbacks.{room}"}) for room, name in CALLBACKS.items()]
    )
