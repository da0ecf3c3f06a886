"""The convolution blocks of the network."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nanogfl.model.depthwise import DepthwiseConv2d


def activation() -> nn.Module:
    """Return LeakyReLU(0.1), the activation of all parts except the ResNet."""
    return nn.LeakyReLU(0.1, inplace=True)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Return a padded convolution without bias and its batch norm, as a list to unpack into a Sequential."""
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]


def depthwise_bn(channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Return a padded depthwise convolution without bias and its batch norm, as a list like ``conv_bn``."""
    return [DepthwiseConv2d(channels, kernel, stride), nn.BatchNorm2d(channels)]


def conv_block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch norm and activation."""
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride), activation())


def separable_block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a depthwise k x k and a pointwise 1 x 1 convolution, each with batch norm and activation."""
    return nn.Sequential(*depthwise_bn(inputs, kernel, stride), activation(), *conv_block(inputs, outputs, 1))


def upsample2(x: Tensor, mode: str = "bilinear") -> Tensor:
    """Upsample by two: bilinear with half-pixel centres, or nearest.

    Under autocast a GPU interpolates in float32; the result is cast back, else the maps computed from it would be wide.
    """
    return F.interpolate(x, scale_factor=2.0, mode=mode).to(x.dtype)
