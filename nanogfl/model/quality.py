"""The distribution-guided quality predictor (Li et al., TPAMI 2022; GFLv2): box quality from the side distributions."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from nanogfl.model.distribution import bins, side_probabilities

Statistics = Literal["top4", "moments"]


class QualityPredictor(nn.Module):
    """A perceptron with one hidden layer that maps statistics of the four side distributions to a quality.

    Args:
        reg_max: R of the distributions.
        statistics: ``top4``: the four largest probabilities and the mean of all (20 values; docs/paper.md);
            ``moments``: largest probability, sum of squared probabilities, and variance of the distance, which need
            no TopK operator (12 values).
        hidden: width of the hidden layer.
    """

    def __init__(self, reg_max: int = 7, statistics: Statistics = "top4", hidden: int = 64) -> None:
        super().__init__()
        if statistics not in get_args(Statistics):
            raise ValueError(f"statistics must be one of {get_args(Statistics)}, not {statistics!r}")
        if reg_max < 3:
            raise ValueError(f"the quality predictor reads distributions of at least 4 bins, not {reg_max + 1}")
        self.reg_max, self.statistics = reg_max, statistics
        self.fc1 = nn.Linear(20 if statistics == "top4" else 12, hidden)
        self.fc2 = nn.Linear(hidden, 1)

    def forward(self, side_logits: Tensor) -> Tensor:
        """Return the quality [..., 1], in (0, 1), from side logits [..., 4 * (R + 1)]."""
        return self.logits(side_logits).sigmoid()

    def logits(self, side_logits: Tensor) -> Tensor:
        """Return the logits of the quality [..., 1], in float32 or wider even under autocast."""
        with torch.autocast(side_logits.device.type, enabled=False):
            exact = side_logits.float() if side_logits.dtype.itemsize < 4 else side_logits
            statistic = self.describe(side_probabilities(exact, self.reg_max)).flatten(-2)
            return self.fc2(self.fc1(statistic).relu())

    def describe(self, probabilities: Tensor) -> Tensor:
        """Return the statistics [..., 4, 5 or 3] of side probabilities [..., 4, R + 1]."""
        if self.statistics == "top4":
            top = probabilities.topk(4, dim=-1).values
            return torch.cat([top, probabilities.mean(dim=-1, keepdim=True)], dim=-1)
        values = bins(self.reg_max, probabilities)
        mean = (probabilities * values).sum(-1)
        variance = (probabilities * values.square()).sum(-1) - mean.square()
        return torch.stack([probabilities.amax(-1), probabilities.square().sum(-1), variance], dim=-1)


def product_logits(class_logits: Tensor, quality_logits: Tensor) -> Tensor:
    """Return the logits of sigmoid(c) x sigmoid(q), in float32 or wider, for logits of broadcastable shapes.

    With p = 1 / ((1 + e^-c) (1 + e^-q)), p / (1 - p) is 1 / (e^-c + e^-q + e^-(c + q)). Scores themselves are not
    computed, so nothing saturates at 0 or 1 and gradients do not vanish when a score does.
    """
    c, q = (-(x.float() if x.dtype.itemsize < 4 else x) for x in (class_logits, quality_logits))
    c, q = torch.broadcast_tensors(c, q)
    return -torch.stack([c, q, c + q]).logsumexp(dim=0)
