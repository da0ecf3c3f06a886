"""The neck: a path aggregation network (PAN) of ghost blocks (GhostNet, Han et al., CVPR 2020)."""

from __future__ import annotations

from torch import Tensor, nn

from nanogfl.model.dense import join
from nanogfl.model.layers import activation, conv_block, conv_bn, depthwise_bn, separable_block, upsample2

KERNEL = 5  # side of the depthwise kernels


class GhostModule(nn.Module):
    """A module that computes half of its output by a 1x1 convolution and the rest from it by a depthwise 3x3."""

    def __init__(self, inputs: int, outputs: int, active: bool) -> None:
        super().__init__()
        half = outputs // 2
        end = [activation()] if active else []
        self.primary = nn.Sequential(*conv_bn(inputs, half, 1), *end)
        self.cheap = nn.Sequential(*depthwise_bn(half, 3), *end)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        primary = self.primary(x)
        return join(primary, self.cheap(primary))


class GhostBlock(nn.Module):
    """Two ghost modules in sequence, in parallel with a separable shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.ghost1 = GhostModule(inputs, outputs, active=True)
        self.ghost2 = GhostModule(outputs, outputs, active=False)
        self.shortcut = nn.Sequential(*depthwise_bn(inputs, KERNEL), *conv_bn(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        return self.ghost2(self.ghost1(x)) + self.shortcut(x)


class GhostPAN(nn.Module):
    """NanoDet-Plus' neck: maps at strides 8, 16, 32 in; maps of one width at strides 8, 16, 32, 64 out.

    Args:
        inputs: channels of the three maps.
        width: channels of all four outputs.
    """

    def __init__(self, inputs: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(conv_block(channels, width, 1) for channels in inputs)
        self.top_down = nn.ModuleList(GhostBlock(2 * width, width) for _ in range(2))
        self.downsample = nn.ModuleList(separable_block(width, width, KERNEL, stride=2) for _ in range(2))
        self.bottom_up = nn.ModuleList(GhostBlock(2 * width, width) for _ in range(2))
        self.extra_in = separable_block(width, width, KERNEL, stride=2)
        self.extra_out = separable_block(width, width, KERNEL, stride=2)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Convert three maps [B, C_i, H / s, W / s] to four maps [B, width, H / s, W / s], s = 8, 16, 32, 64."""
        x8, x16, x32 = (reduce(f) for reduce, f in zip(self.reduce, features, strict=True))
        t16 = self.top_down[0](join(upsample2(x32), x16))
        t8 = self.top_down[1](join(upsample2(t16), x8))
        p16 = self.bottom_up[0](join(self.downsample[0](t8), t16))
        p32 = self.bottom_up[1](join(self.downsample[1](p16), x32))
        p64 = self.extra_in(x32) + self.extra_out(p32)
        return [t8, p16, p32, p64]
