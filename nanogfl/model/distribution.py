"""The general distribution of a box side (Li et al., TPAMI 2022, section 3.2): R + 1 bins per side, in strides.

R = 0 selects the paper's Dirac delta: one value per side, whose softplus is the distance.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nanogfl.decode import all_priors

REG_MAX = 7


def side_probabilities(logits: Tensor, reg_max: int = REG_MAX) -> Tensor:
    """Convert side logits [..., 4 * (R + 1)] to probabilities [..., 4, R + 1] (left, top, right, bottom)."""
    return logits.unflatten(-1, (4, reg_max + 1)).softmax(dim=-1)


def bins(reg_max: int, like: Tensor) -> Tensor:
    """Return the values 0..R of the bins, in strides: [R + 1]."""
    return torch.arange(reg_max + 1, dtype=like.dtype, device=like.device)


def integral(logits: Tensor) -> Tensor:
    """Return the expected distance of each side, in strides (the paper's equation of the estimated regression value).

    Args:
        logits: side logits [..., 4 * (R + 1)].

    Returns:
        Distances [..., 4].
    """
    reg_max = logits.shape[-1] // 4 - 1
    if reg_max == 0:
        return F.softplus(logits)
    # bins as the first axis: on a CPU, a softmax over rows of eight is slow (docs/scale.md)
    first = logits.unflatten(-1, (4, reg_max + 1)).movedim(-1, 0)
    return torch.tensordot(bins(reg_max, logits), first.softmax(dim=0), dims=1)


def distances_to_boxes(distances: Tensor, priors: Tensor) -> Tensor:
    """Convert distances [..., P, 4] (strides) from priors [..., P, 3] (x, y, stride; px) to boxes [..., P, 4] (px)."""
    centre, stride = priors[..., :2], priors[..., 2:]
    return torch.cat([centre - distances[..., :2] * stride, centre + distances[..., 2:] * stride], dim=-1)


def make_priors(height: int, width: int, strides: tuple[int, ...], centred: bool = False) -> tuple[Tensor, list[int]]:
    """Return one prior per cell, at its upper left corner (column * stride, row * stride) or at its centre.

    Returns:
        Priors [P, 3] (x, y, stride in px), and the number of priors on each level.
    """
    # all_priors returns a cached array, hence the copy
    priors = torch.from_numpy(all_priors((height, width), strides, centred).copy())
    return priors, [-(-height // stride) * -(-width // stride) for stride in strides]
