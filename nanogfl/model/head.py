"""The GFL head: one branch of separable convolutions a level predicts classes and side distributions together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nanogfl.model.layers import separable_block
from nanogfl.model.quality import QualityPredictor, product_logits

BACKGROUND_BIAS = -math.log(99)  # every class starts at a score of .01 (RetinaNet, section 4.1)


class GFLHead(nn.Module):
    """Maps of one width in, one tensor of logits out.

    Args:
        width: channels of the maps.
        classes: number of classes C.
        reg_max: R; each side has R + 1 bins.
        levels: number of maps.
        share_levels: one branch for all levels instead of one each.
        quality: the distribution-guided quality predictor, or None.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        reg_max: int,
        levels: int,
        share_levels: bool = False,
        quality: QualityPredictor | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.levels = classes, levels
        branches = 1 if share_levels else levels
        self.towers = nn.ModuleList(
            nn.Sequential(separable_block(width, width, 5), separable_block(width, width, 5)) for _ in range(branches)
        )
        self.predict = nn.ModuleList(self._predictor(width, classes + 4 * (reg_max + 1)) for _ in range(branches))
        self.quality = quality

    @staticmethod
    def _predictor(width: int, outputs: int) -> nn.Conv2d:
        conv = nn.Conv2d(width, outputs, 1)
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.constant_(torch.as_tensor(conv.bias), BACKGROUND_BIAS)
        return conv

    def maps(self, features: list[Tensor]) -> list[Tensor]:
        """Four maps [B, width, h, w] -> four maps [B, C + 4 * (R + 1), h, w], before the quality predictor."""
        last = len(self.towers) - 1
        return [self.predict[min(i, last)](self.towers[min(i, last)](f)) for i, f in enumerate(features)]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Four maps [B, width, h, w] -> [B, P, C + 4 * (R + 1)]; class columns are logits of the final score."""
        raw = torch.cat([m.flatten(2) for m in self.maps(features)], dim=2).transpose(1, 2)
        if self.quality is None:
            return raw
        classes, sides = raw.split([self.classes, raw.shape[-1] - self.classes], dim=-1)
        return torch.cat([product_logits(classes, self.quality(sides)), sides], dim=-1)
