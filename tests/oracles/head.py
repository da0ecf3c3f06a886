"""The general distribution, priors, and the distribution-guided quality predictor (Li et al., TPAMI 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from oracles.losses import Row, log_sigmoid, softmax

Array = NDArray[np.floating]


def sides(logits: Row) -> list[list[float]]:
    """4 * (R + 1) logits -> four probability rows: left, top, right, bottom."""
    bins = len(logits) // 4
    return [softmax(logits[side * bins : (side + 1) * bins]) for side in range(4)]


def mean(probability: Row) -> float:
    """Expected distance in strides."""
    return sum(i * p for i, p in enumerate(probability))


def deviation(probability: Row) -> float:
    """Standard deviation in strides, about the mean (two passes)."""
    centre = mean(probability)
    return math.sqrt(sum(p * (i - centre) ** 2 for i, p in enumerate(probability)))


def box(logits: Row, prior: Row) -> list[float]:
    """The predicted box in px around a prior (x, y, stride)."""
    x, y, stride = prior
    left, top, right, bottom = (mean(p) * stride for p in sides(logits))
    return [x - left, y - top, x + right, y + bottom]


def priors(height: int, width: int, strides: Sequence[int]) -> list[tuple[float, float, float]]:
    """A prior at (column * stride, row * stride) while that is inside the input: levels in order, rows first."""
    return [
        (float(x), float(y), float(stride))
        for stride in strides
        for y in range(0, height, stride)
        for x in range(0, width, stride)
    ]


def top4(logits: Row) -> list[float]:
    """The four largest probabilities of each side and the mean of all: 20 values."""
    values: list[float] = []
    for probability in sides(logits):
        largest = sorted(probability, reverse=True)[:4]
        values += [*largest, sum(probability) / len(probability)]
    return values


def moments(logits: Row) -> list[float]:
    """Maximum, second moment and variance of each side: 12 values."""
    return [v for p in sides(logits) for v in (max(p), sum(q * q for q in p), deviation(p) ** 2)]


def quality(statistic: Row, w1: Array, b1: Array, w2: Array, b2: Array) -> float:
    """sigmoid(W2 relu(W1 F + b1) + b2)."""
    total = float(b2[0])
    for hidden, bias in enumerate(b1):
        value = float(bias) + sum(float(w) * f for w, f in zip(w1[hidden], statistic, strict=True))
        total += float(w2[0][hidden]) * max(0.0, value)
    return math.exp(log_sigmoid(total))
