"""Assign guidance: larger heads, used in training only, whose predictions decide which target each prior gets.

Early in training, the detector's own predictions give poor assignments; a head that learns faster assigns the targets
of both (NanoDet-Plus).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nanogfl.model.ghost_pan import GhostPAN
from nanogfl.model.head import TowerHead, conv_tower
from nanogfl.model.layers import separable_block

Guidance = Literal["full", "light", "none"]


class FullGuidance(nn.Module):
    """NanoDet-Plus' guidance: a second neck, then two towers of four 3x3 convolutions on both necks' joined maps."""

    def __init__(self, inputs: tuple[int, int, int], width: int, classes: int, reg_max: int) -> None:
        super().__init__()
        self.neck = GhostPAN(inputs, width)
        towers = (conv_tower(2 * width), conv_tower(2 * width))
        self.head = TowerHead(towers, 2 * width, classes, reg_max, levels=4)

    def forward(self, features: list[Tensor], pyramid: list[Tensor], detach: bool = False) -> Tensor:
        """Map the 3 backbone maps and 4 neck maps to logits [B, P, C + 4 * (R + 1)].

        With ``detach``, no gradient reaches the detector; NanoDet-Plus does this after some epochs.
        """
        if detach:
            features, pyramid = [f.detach() for f in features], [p.detach() for p in pyramid]
        both = [torch.cat([p, own], dim=1) for p, own in zip(pyramid, self.neck(features), strict=True)]
        return self.head(both)


class LightGuidance(nn.Module):
    """Guidance at a twentieth of the cost: separable towers on the maps of the detector's own neck."""

    def __init__(self, width: int, classes: int, reg_max: int) -> None:
        super().__init__()
        tower = (self._tower(width), self._tower(width))
        self.head = TowerHead(tower, width, classes, reg_max, levels=4)

    @staticmethod
    def _tower(width: int) -> nn.Module:
        return nn.Sequential(separable_block(width, width, 5), separable_block(width, width, 5))

    def forward(self, features: list[Tensor], pyramid: list[Tensor], detach: bool = False) -> Tensor:
        """Map the 4 neck maps to logits [B, P, C + 4 * (R + 1)]; the backbone's maps are not used."""
        del features
        return self.head([p.detach() for p in pyramid] if detach else pyramid)
