"""AdamW with groups of parameters: norms and biases are not decayed, the backbone may learn at a rate of its own."""

from __future__ import annotations

import torch
from torch import nn

from nanogfl.recipe import TrainRecipe


def adamw(task: nn.Module, train: TrainRecipe, lr: float) -> torch.optim.AdamW:
    """Return the optimizer of a task's trainable parameters.

    Args:
        task: a module with a ``detector``.
        train: recipe with ``weight_decay``, ``backbone_lr`` (a factor) and the precision.
        lr: learning rate.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            key = (parameter.ndim > 1, name.startswith("detector.backbone."))
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": train.weight_decay if matrix else 0.0,
                "lr": lr * (train.backbone_lr if backbone else 1.0),
            }
            for (matrix, backbone), parameters in groups.items()
        ],
        lr=lr,
        fused=not train.fp16,  # else fp16 gradients would be clipped before unscaling
    )
