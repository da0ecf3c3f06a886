"""Assign-guidance: heavier heads, in training only, whose predictions decide what each prior learns.

A young detector assigns its own labels badly; a head that learns faster does it for both (NanoDet-Plus).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from nanogfl.model.ghost_pan import GhostPAN
from nanogfl.model.head import BACKGROUND_BIAS
from nanogfl.model.layers import separable_block

Guidance = Literal["full", "light", "none"]


class GuidanceHead(nn.Module):
    """Two towers (class, sides), shared by all levels, with a learned scale of the sides a level.

    Args:
        towers: the class tower and the side tower, modules that keep [B, width, h, w].
        width: channels that the towers give.
        classes, reg_max, levels: as in the detector's own head.
    """

    def __init__(self, towers: tuple[nn.Module, nn.Module], width: int, classes: int, reg_max: int, levels: int):
        super().__init__()
        self.class_tower, self.side_tower = towers
        self.classify = nn.Conv2d(width, classes, 3, padding=1)
        self.measure = nn.Conv2d(width, 4 * (reg_max + 1), 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        for conv in (self.classify, self.measure):
            nn.init.normal_(conv.weight, std=0.01)
        nn.init.constant_(self.classify.bias, BACKGROUND_BIAS)  # type: ignore[arg-type]
        nn.init.zeros_(self.measure.bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Four maps [B, width, h, w] -> [B, P, C + 4 * (R + 1)]."""
        levels = [
            torch.cat([self.classify(self.class_tower(f)), self.measure(self.side_tower(f)) * scale], dim=1)
            for f, scale in zip(features, self.scales, strict=True)
        ]
        return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)


class FullGuidance(nn.Module):
    """NanoDet-Plus' own: a second neck, both necks' maps concatenated, two towers of four 3x3 convolutions."""

    def __init__(self, inputs: tuple[int, int, int], width: int, classes: int, reg_max: int) -> None:
        super().__init__()
        self.neck = GhostPAN(inputs, width)
        towers = (self._tower(2 * width), self._tower(2 * width))
        self.head = GuidanceHead(towers, 2 * width, classes, reg_max, levels=4)

    @staticmethod
    def _tower(width: int) -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(4):
            conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
            layers += [conv, nn.GroupNorm(math.gcd(32, width), width), nn.LeakyReLU(0.1, inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, features: list[Tensor], pyramid: list[Tensor], detach: bool = False) -> Tensor:
        """Backbone maps (3) and neck maps (4) -> [B, P, C + 4 * (R + 1)].

        With ``detach`` nothing flows back into the detector, as NanoDet-Plus does it after some epochs.
        """
        if detach:
            features, pyramid = [f.detach() for f in features], [p.detach() for p in pyramid]
        both = [torch.cat([p, own], dim=1) for p, own in zip(pyramid, self.neck(features), strict=True)]
        return self.head(both)


class LightGuidance(nn.Module):
    """The same idea at a twentieth of the cost: separable towers on the detector's own neck."""

    def __init__(self, width: int, classes: int, reg_max: int) -> None:
        super().__init__()
        tower = (self._tower(width), self._tower(width))
        self.head = GuidanceHead(tower, width, classes, reg_max, levels=4)

    @staticmethod
    def _tower(width: int) -> nn.Module:
        return nn.Sequential(separable_block(width, width, 5), separable_block(width, width, 5))

    def forward(self, features: list[Tensor], pyramid: list[Tensor], detach: bool = False) -> Tensor:
        """Neck maps (4) -> [B, P, C + 4 * (R + 1)]; the backbone's maps are not used."""
        del features
        return self.head([p.detach() for p in pyramid] if detach else pyramid)
