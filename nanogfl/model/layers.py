"""The three convolution blocks that the whole network is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FloatConv2d(nn.Conv2d):
    """A convolution that a CPU computes in float32, under autocast too.

    Depthwise ones, whose gradients take three times as long in bf16 there (docs/scale.md), and strided ones of maps
    that may be a single pixel, whose gradients oneDNN takes from memory that nobody wrote.
    """

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w], in the precision that autocast asks for."""
        if images.is_cuda or not torch.is_autocast_enabled("cpu"):
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            made = super().forward(images.float())
        return made.to(torch.get_autocast_dtype("cpu"))


def activation() -> nn.Module:
    """LeakyReLU(0.1), everywhere but in the ResNet."""
    return nn.LeakyReLU(0.1, inplace=True)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A padded convolution without bias and its batch norm, as a list to be spread into a Sequential."""
    kind = nn.Conv2d if groups == 1 else FloatConv2d
    conv = kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def conv_block(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride, groups), activation())


def separable_block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Depthwise k x k, then pointwise 1 x 1, each with batch norm and activation."""
    depthwise = conv_block(inputs, inputs, kernel, stride, groups=inputs)
    return nn.Sequential(*depthwise, *conv_block(inputs, outputs, 1))
