"""nanogfl.model.detector and what it is made of: NanoDet-Plus' golden maps and boxes, published counts, laws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanogfl.decode import Layout, Thresholds, decode
from nanogfl.model.dense import interleave
from nanogfl.model.detector import Architecture, Detector, Family, count_parameters, initialise, make_guidance
from nanogfl.model.distribution import distances_to_boxes, integral
from nanogfl.model.guidance import FullGuidance, LightGuidance
from nanogfl.model.layers import upsample2
from nanogfl.model.weights import load_state, read_weights, recognise
from nanogfl.view import View, normalise

Size = Literal["s", "m", "l"]


@dataclass
class Golden:
    """NanoDet's own outputs, and ours from its file."""

    arrays: dict[str, np.ndarray]
    features: list[Tensor]
    pyramid: list[Tensor]
    raw: Tensor
    guide: Tensor


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    weights = read_weights(shared / "reference" / "nanodet_plus_m_10cls.ckpt")
    architecture = recognise(weights.state, weights.source)
    detector, guidance = Detector(architecture).eval(), make_guidance("full", architecture)
    assert guidance is not None
    load_state(detector, weights.state, weights.source)
    aux = {k.removeprefix("guidance."): v for k, v in weights.state.items() if k.startswith("guidance.")}
    load_state(guidance.eval(), aux, weights.source)
    arrays = dict(np.load(shared / "reference" / "nanodet_plus_m_10cls.npz"))
    images = torch.from_numpy(np.stack([normalise(p.astype(np.float32)) for p in arrays["images_bgr_u8"]]))
    with torch.no_grad():
        features = detector.backbone(images)
        pyramid = detector.neck(features)
        raw, guide = detector(images), guidance(features, pyramid)
    return Golden(arrays, features, pyramid, raw, guide)


def lively(detector: Detector, seed: int = 0) -> Detector:
    """Weights and statistics that let every layer speak, in eval mode."""
    torch.manual_seed(seed)
    for layer in detector.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=(2.0 / layer.weight[0].numel()) ** 0.5)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.7, 1.3)
            nn.init.normal_(layer.bias, std=0.2)
    return detector.eval()


@pytest.fixture(scope="module")
def small() -> Detector:
    return lively(Detector(Architecture("s", 4)))


# --- golden


def test_golden_maps(golden: Golden) -> None:
    for i, feature in enumerate(golden.features):
        np.testing.assert_allclose(feature[:1].numpy(), golden.arrays[f"c{i}"], rtol=0, atol=1e-4)
    for i, level in enumerate(golden.pyramid):
        np.testing.assert_allclose(level[:1].numpy(), golden.arrays[f"p{i}"], rtol=0, atol=1e-4)


def test_golden_raw_and_guidance(golden: Golden) -> None:
    np.testing.assert_allclose(golden.raw.numpy(), golden.arrays["raw"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(golden.guide[:1].numpy(), golden.arrays["aux_raw"], rtol=0, atol=1e-4)


def test_golden_scores_and_boxes(golden: Golden) -> None:
    np.testing.assert_allclose(golden.raw[..., :10].sigmoid().numpy(), golden.arrays["scores"], atol=1e-5)
    priors = torch.from_numpy(golden.arrays["priors_xy_stride"])
    boxes = distances_to_boxes(integral(golden.raw[..., 10:]), priors).numpy()
    limit = np.array([416, 320, 416, 320], np.float32)
    np.testing.assert_allclose(boxes.clip(0, limit), golden.arrays["boxes_xyxy"], rtol=0, atol=1e-2)


@pytest.mark.parametrize("index", [0, 1])
def test_golden_detections(golden: Golden, index: int) -> None:
    """After NMS: the same hundred boxes, in the same order up to scores that are equal to 1e-5."""
    view = View((320, 416), (320, 416), "stretch")
    names = [str(i) for i in range(10)]
    raw = golden.raw[index].numpy()
    layout = Layout((320, 416), (8, 16, 32, 64), 7, False)
    found = decode(raw, layout, view, names, Thresholds(0.05, 0.6, 100))
    expected, labels = golden.arrays[f"det{index}_boxes"], golden.arrays[f"det{index}_labels"]
    assert len(found) == len(expected) == 100
    np.testing.assert_allclose(found.scores, expected[:, 4], rtol=0, atol=1e-5)
    free = set(range(100))
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        near = [
            i
            for i in free
            if labels[i] == label and abs(expected[i, 4] - score) < 1e-5 and np.abs(expected[i, :4] - box).max() < 1e-2
        ]
        assert near, (box, score, label)
        free.remove(near[0])


# --- published numbers


def test_parameters_of_nanodet_plus_m() -> None:
    assert count_parameters(Detector(Architecture("m", 80))) == 1_197_924


@pytest.mark.parametrize(
    ("size", "published", "last", "widest"),
    [("s", 1_366_792, 1024, 192), ("m", 2_278_604, 1024, 464), ("l", 3_503_624, 1024, 704)],
)
def test_backbone_has_torchvisions_parameters(size: Size, published: int, last: int, widest: int) -> None:
    """ShuffleNetV2 0.5x, 1.0x, 1.5x without the last convolution, its norm, and the 1000-way classifier."""
    rest = (widest * last + 2 * last) + (last * 1000 + 1000)
    assert count_parameters(Detector(Architecture(size, 1)).backbone) == published - rest


@pytest.mark.parametrize("size", ["s", "m", "l"])
@pytest.mark.parametrize("extra", [1, 20])
def test_a_class_costs_one_row_a_level(size: Size, extra: int) -> None:
    width = {"s": 72, "m": 96, "l": 128}[size]
    few, many = (count_parameters(Detector(Architecture(size, c))) for c in (1, 1 + extra))
    assert many - few == 4 * extra * (width + 1)


@pytest.mark.parametrize(("quality", "count"), [("top4", 1409), ("moments", 897)])
def test_the_quality_predictor_costs_what_the_paper_says(quality: Literal["top4", "moments"], count: int) -> None:
    plain, guided = Detector(Architecture("s", 3)), Detector(Architecture("s", 3, quality=quality))
    assert count_parameters(guided) - count_parameters(plain) == count


# --- sizes


@pytest.mark.parametrize(
    ("height", "width", "priors"),
    [(64, 64, 85), (64, 96, 128), (96, 64, 128), (96, 160, 321), (160, 96, 321), (128, 224, 596)],
)
def test_any_multiple_of_32_square_or_not(small: Detector, height: int, width: int, priors: int) -> None:
    found, levels = small.priors(height, width)
    assert len(found) == sum(levels) == priors
    with torch.no_grad():
        raw = small(torch.randn(1, 3, height, width))
    assert raw.shape == (1, priors, 4 + 32) and raw.isfinite().all()


@pytest.mark.parametrize("size", ["m", "l"])
@pytest.mark.parametrize("share", [False, True])
def test_the_other_sizes_run(size: Size, share: bool) -> None:
    detector = lively(Detector(Architecture(size, 2, share_levels=share, quality="top4")))
    with torch.no_grad():
        raw = detector(torch.randn(1, 3, 64, 96))
    assert raw.shape == (1, 128, 34) and raw.isfinite().all() and raw.std() > 1e-2


@pytest.mark.parametrize("share", [False, True])
def test_height_and_width_never_swap(share: bool) -> None:
    """With every kernel transposed, a transposed picture gives transposed maps: rows first in each level."""
    height, width = 96, 160
    detector = lively(Detector(Architecture("s", 3, share_levels=share))).double()
    mirrored = lively(Detector(Architecture("s", 3, share_levels=share))).double()
    mirrored.load_state_dict({k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in detector.state_dict().items()})
    images = torch.randn(1, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        raw, turned = detector(images), mirrored(images.transpose(2, 3))
        wrong = detector(images.transpose(2, 3))
    start = 0
    rows = []
    for stride in detector.architecture.strides:
        h, w = -(-height // stride), -(-width // stride)
        rows.append(turned[:, start : start + h * w].view(1, w, h, -1).transpose(1, 2).reshape(1, h * w, -1))
        start += h * w
    torch.testing.assert_close(torch.cat(rows, dim=1), raw, rtol=1e-9, atol=1e-9)
    assert (wrong - turned).abs().max() > 1e-2  # the kernels are not symmetric


def test_rows_of_the_output_lie_where_their_priors_say(small: Detector) -> None:
    """A change of the picture far from a prior's surroundings leaves its row; one at its place does not."""
    images = torch.randn(1, 3, 64, 1024)
    changed = images.clone()
    changed[..., 900:] += 1
    with torch.no_grad():
        moved = (small.head(features_of(small, changed)) - small.head(features_of(small, images))).abs().amax(-1)[0]
    priors = small.priors(64, 1024)[0][: 8 * 128]
    moved = moved[: 8 * 128]
    assert (moved[priors[:, 0] > 920] > 0).all()
    assert moved[priors[:, 0] < 100].max() == 0


def features_of(detector: Detector, images: Tensor) -> list[Tensor]:
    """Maps without the neck, which reaches everywhere: the backbone's first one at all four places."""
    first = detector.backbone.stage2(detector.backbone.maxpool(detector.backbone.conv1(images)))
    maps = first.mean(dim=1, keepdim=True).expand(-1, 72, -1, -1).contiguous()
    return [maps] * 4


# --- laws


def test_a_picture_does_not_see_its_batch() -> None:
    """In float64, so that nothing but a leak can differ: kernels may add in another order for another batch."""
    detector = lively(Detector(Architecture("s", 4))).double()
    images = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    images[1] *= 30
    with torch.no_grad():
        whole = detector(images)
        order = detector(images[[2, 0, 1]])
        for i in range(3):
            torch.testing.assert_close(detector(images[i : i + 1])[0], whole[i], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(order, whole[[2, 0, 1]], rtol=1e-9, atol=1e-9)


def test_shared_levels_are_one_branch_and_own_levels_are_four() -> None:
    features = [torch.randn(1, 72, 3, 5)] * 4
    for share, same in ((True, True), (False, False)):
        head = lively(Detector(Architecture("s", 3, share_levels=share))).head
        with torch.no_grad():
            levels = head(features).view(4, 15, -1)
        assert all(torch.allclose(levels[0], level, atol=1e-5) for level in levels[1:]) == same
    one, four = (count_parameters(Detector(Architecture("s", 3, share_levels=s)).head) for s in (True, False))
    assert four == 4 * one


def test_class_columns_come_first_and_sides_after() -> None:
    detector = lively(Detector(Architecture("s", 3)))
    features = [torch.randn(1, 72, n, n) for n in (4, 3, 2, 1)]
    with torch.no_grad():
        before = detector.head(features)
        for conv in detector.head.predict:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            conv.bias[1] += 5  # the second class
            conv.bias[3 + 8 + 2] += 7  # bin 2 of the top side
        moved = detector.head(features) - before
    expected = torch.zeros(35)
    expected[1], expected[3 + 8 + 2] = 5, 7
    torch.testing.assert_close(moved, expected.expand_as(moved), atol=1e-4, rtol=0)


def test_a_fresh_detector_says_one_percent_everywhere() -> None:
    torch.manual_seed(0)
    architecture = Architecture("m", 80)
    parts = [Detector(architecture), make_guidance("full", architecture), make_guidance("light", architecture)]
    detector, full, light = parts
    assert isinstance(detector, Detector) and isinstance(full, FullGuidance) and isinstance(light, LightGuidance)
    for part in (detector, full, light):
        initialise(part)
        part.eval()
    with torch.no_grad():
        features = detector.backbone(torch.randn(2, 3, 128, 128))
        pyramid = detector.neck(features)
        for raw in (detector.head(pyramid), full(features, pyramid), light(features, pyramid)):
            assert raw[..., :80].sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
            assert integral(raw[..., 80:]).mean().item() == pytest.approx(3.5, abs=0.2)


@pytest.mark.parametrize("reg_max", [0, 7])
@pytest.mark.parametrize("changes", [{}, {"separate_sides": True}, {"family": "resnet"}], ids=str)
def test_sides_start_at_the_mean_of_eight_equal_bins(changes: dict[str, Any], reg_max: int) -> None:
    torch.manual_seed(0)
    detector = Detector(Architecture("s", 4, reg_max=reg_max, **changes)).eval()
    sides = integral(detector(torch.zeros(1, 3, 64, 64)).detach()[..., 4:])
    torch.testing.assert_close(sides.mean(dim=(0, 1)), torch.full((4,), 3.5), rtol=0.05, atol=0)


def test_initialise_leaves_the_predicting_layers_and_wakes_the_others() -> None:
    torch.manual_seed(0)
    detector = Detector(Architecture("s", 3))
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    initialise(detector)
    for key, value in detector.state_dict().items():
        kept = value.ndim < 4 or key.startswith("head.predict")
        assert torch.equal(value, before[key]) == kept, key
    reduce = detector.neck.reduce[2]
    assert isinstance(reduce, nn.Sequential)
    pointwise = reduce[0]
    assert isinstance(pointwise, nn.Conv2d)  # 192 inputs
    assert pointwise.weight.std().item() == pytest.approx(0.1 * (2 / 192) ** 0.5, rel=0.05)
    depthwise = detector.head.towers[0][0][0]  # type: ignore[index]
    assert isinstance(depthwise, nn.Conv2d)  # 5 x 5, one input each
    assert depthwise.weight.std().item() == pytest.approx(0.1 * (2 / 25) ** 0.5, rel=0.1)


def test_training_mode_gives_every_parameter_a_gradient() -> None:
    for architecture in (Architecture("s", 3, quality="top4"), Architecture("s", 3, share_levels=True)):
        detector = lively(Detector(architecture)).train()
        detector(torch.randn(2, 3, 96, 128)).square().mean().backward()
        idle = [n for n, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not idle
        assert all((p.grad != 0).any() for n, p in detector.named_parameters() if p.grad is not None and p.ndim > 1)


# --- guidance


def maps_for(size: Size, grad: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(1)
    widths = {"s": (48, 96, 192, 72), "m": (116, 232, 464, 96), "l": (176, 352, 704, 128)}[size]
    features = [torch.randn(1, c, n, 2 * n, requires_grad=grad) for c, n in zip(widths, (8, 4, 2), strict=False)]
    pyramid = [torch.randn(1, widths[3], n, 2 * n, requires_grad=grad) for n in (8, 4, 2, 1)]
    return features, pyramid


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("full", "s"),
        ("full", "m"),
        ("full", "l"),
        ("light", "s"),
        ("light", "m"),
        ("light", "l"),
    ],
)
def test_guidance_speaks_the_heads_language(kind: Literal["full", "light"], size: Size) -> None:
    guidance = make_guidance(kind, Architecture(size, 5))
    assert guidance is not None
    features, pyramid = maps_for(size)
    raw = guidance.eval()(features, pyramid)
    assert raw.shape == (1, 8 * 16 + 4 * 8 + 2 * 4 + 1 * 2, 5 + 32) and raw.isfinite().all()


def test_no_guidance_is_none() -> None:
    assert make_guidance("none", Architecture("m", 5)) is None


@pytest.mark.parametrize("kind", ["full", "light"])
def test_a_scale_stretches_the_sides_of_its_level_only(kind: Literal["full", "light"]) -> None:
    guidance = make_guidance(kind, Architecture("m", 5))
    assert guidance is not None
    guidance.eval()
    features, pyramid = maps_for("m")
    with torch.no_grad():
        before = guidance(features, pyramid)
        guidance.head.scales[1] = 2.5
        after = guidance(features, pyramid)
    expected = before.clone()
    expected[:, 128:160, 5:] *= 2.5
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("kind", ["full", "light"])
@pytest.mark.parametrize("detach", [True, False])
def test_detached_guidance_does_not_reach_the_detector(kind: Literal["full", "light"], detach: bool) -> None:
    guidance = make_guidance(kind, Architecture("m", 5))
    assert guidance is not None
    features, pyramid = maps_for("m", grad=True)
    guidance(features, pyramid, detach=detach).square().sum().backward()
    assert all((p.grad is None) == detach for p in pyramid)
    assert all((f.grad is None) == (detach or kind == "light") for f in features)
    assert all(p.grad is not None for p in guidance.parameters())


def test_light_guidance_is_light() -> None:
    full, light = (make_guidance(kind, Architecture("m", 80)) for kind in ("full", "light"))
    assert full is not None and light is not None
    assert count_parameters(light) < 0.1 * count_parameters(full)


# --- blocks by hand


def test_channel_shuffle_interleaves_the_halves() -> None:
    x = torch.arange(8.0).view(1, 8, 1, 1).expand(2, 8, 3, 5)
    assert interleave(*x.chunk(2, dim=1))[1, :, 2, 4].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_double_puts_new_pixels_at_quarters() -> None:
    row = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)
    assert upsample2(row)[0, 0].tolist() == [[0.0, 1.0, 3.0, 4.0]] * 2


@pytest.mark.parametrize("family", ["plus", "first", "resnet"])
def test_maps_stay_narrow_where_a_gpu_interpolates_in_float32(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA's autocast does; a convolution's input would have been float32, and cast, and so its gradients."""
    interpolate, widths = F.interpolate, list[torch.dtype]()
    monkeypatch.setattr("nanogfl.model.layers.F.interpolate", lambda x, **how: interpolate(x.float(), **how))
    detector = Detector(Architecture("s", 2, family=family)).train()
    for name, module in detector.named_modules():
        if isinstance(module, nn.Conv2d) and name != "backbone.conv1.0":
            module.register_forward_pre_hook(lambda _, given: widths.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        detector(torch.rand(2, 3, 64, 64))
    assert len(widths) > 50 and set(widths) == {torch.bfloat16}


@pytest.mark.parametrize("build", [lambda: Architecture("m", 5), lambda: Architecture("s", 1, 16, True, "moments")])
def test_an_architecture_is_a_value(build: Callable[[], Architecture]) -> None:
    fields: dict[str, Any] = vars(build())
    assert Architecture(**fields) == build() and len({Architecture(**fields), build()}) == 1


def test_another_number_of_bins() -> None:
    detector = lively(Detector(Architecture("s", 2, reg_max=16, quality="moments")))
    with torch.no_grad():
        raw = detector(torch.randn(1, 3, 64, 64))
    assert raw.shape == (1, 85, 2 + 4 * 17)
    assert raw[..., :2].sigmoid().max() <= 1
