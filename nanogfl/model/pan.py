"""The first NanoDet's neck: a path aggregation network (PAN) without convolutions after its sums."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nanogfl.model.layers import upsample2


class PlainPAN(nn.Module):
    """A PAN that brings maps at strides 8, 16, 32 to one width and adds them top-down, then bottom-up.

    Args:
        inputs: channels of the three maps.
        width: channels of the outputs.
    """

    def __init__(self, inputs: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in inputs)
        for conv in self.lateral:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Convert three maps [B, C_i, H / s, W / s] to three maps [B, width, H / s, W / s], s = 8, 16, 32."""
        x8, x16, x32 = (lateral(f) for lateral, f in zip(self.lateral, features, strict=True))
        t16 = x16 + upsample2(x32)
        t8 = x8 + upsample2(t16)
        p16 = t16 + downsample2(t8)
        return [t8, p16, x32 + downsample2(p16)]


def downsample2(x: Tensor) -> Tensor:
    """Downsample by two with 2 x 2 means: bilinear with half-pixel centres. Sides are even, as inputs are n x 32 px."""
    return F.avg_pool2d(x, 2)
