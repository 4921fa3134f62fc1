"""Losses: values worked by hand, gradients, empty masks, extreme logits, other people's code."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import seglab.losses
from seglab.core.config import Loss
from seglab.core.errors import UserError
from seglab.core.registry import LOSSES

NAMES = sorted(entry.name for entry in LOSSES)
POOLED = ["bce_dice", "dice", "focal_tversky", "jaccard", "lovasz", "mcc", "tversky"]


def build(name: str, **options: object) -> seglab.losses.Loss:
    loss: seglab.losses.Loss = Loss(name=name, **options).build()
    return loss


def images(*rows: list[float]) -> Tensor:
    """A batch of images that are one row of pixels each, (B,1,1,W)."""
    return torch.tensor(rows, dtype=torch.float64)[:, None, None, :]


def logit(*rows: list[float]) -> Tensor:
    return torch.logit(images(*rows))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 12, 10, generator=generator)
    mask = (torch.rand(3, 1, 12, 10, generator=generator) < 0.3).float()
    mask[2] = 0
    return logits, mask


@pytest.mark.parametrize("name", NAMES)
def test_shares_are_as_good_as_the_native_mask(name: str) -> None:
    """The loss of 2 × 2 native pixels of one logit, but of losses that take no shares."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 6, 5, generator=generator, dtype=torch.float64)
    native = (torch.rand(3, 1, 12, 10, generator=generator) < 0.3).double()
    shares = torch.nn.functional.avg_pool2d(native, 2)
    enlarged = logits.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    smooth = ({"smooth": 1}, {"smooth": 4}) if name in {*POOLED} - {"lovasz"} else ({}, {})
    coarse, fine = (build(name, **options) for options in smooth)
    is_equal = torch.isclose(coarse(logits, shares), fine(enlarged, native), rtol=1e-9)
    assert bool(is_equal) == (name in Loss.of_shares)


# p = (0.8, 0.4, 0.2), truth = (1, 1, 0): tp = 1.2, fp = 0.2, fn = 0.8, tn = 0.8
PROBS, TRUTH = [0.8, 0.4, 0.2], [1.0, 1.0, 0.0]
TVERSKY = (1.2 + 1) / (1.2 + 0.7 * 0.8 + 0.3 * 0.2 + 1)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("bce", {}, -(math.log(0.8) + math.log(0.4) + math.log(0.8)) / 3),
        ("bce", {"pos_weight": 3}, -(3 * math.log(0.8) + 3 * math.log(0.4) + math.log(0.8)) / 3),
        ("jaccard", {"smooth": 2}, 1 - (1.2 + 2) / (1.2 + 0.2 + 0.8 + 2)),
        ("focal_tversky", {"alpha": 0.7, "gamma": 2, "smooth": 1}, (1 - TVERSKY) ** 0.5),
        ("mcc", {"smooth": 1}, 1 - (2.2 * 1.8 - 0.2 * 0.8) / math.sqrt(2.4 * 3.0 * 2.0 * 2.6)),
    ],
)
def test_value_worked_by_hand(name: str, options: dict[str, float], expected: float) -> None:
    value = build(name, **options)(logit(PROBS), images(TRUTH))
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_bce_dice_is_the_weighted_sum(batch: tuple[Tensor, Tensor]) -> None:
    both = build("bce_dice", bce_weight=0.3, pos_weight=2, pool="image")(*batch)
    parts = 0.3 * build("bce", pos_weight=2)(*batch) + build("dice", pool="image")(*batch)
    torch.testing.assert_close(both, parts)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_right(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = (torch.rand(2, 1, 3, 4, generator=generator) < 0.4).double()
    assert torch.autograd.gradcheck(lambda z: build(name)(z, mask), (logits,))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_focal_gradient_is_finite_for_any_gamma(gamma: float) -> None:
    logits = torch.tensor([[[[-1e4, -30.0, 0.0, 30.0, 1e4]]]], requires_grad=True)
    for truth in (torch.zeros_like(logits), torch.ones_like(logits)):
        (gradient,) = torch.autograd.grad(build("focal", gamma=gamma)(logits, truth), logits)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("truth", [[0.0], [1.0], [0.0, 1, 0, 1, 0]])
@pytest.mark.parametrize("name", NAMES)
def test_finite_at_extreme_logits(name: str, truth: list[float], dtype: torch.dtype) -> None:
    logits = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4]).repeat(2, 1, 4, 1).to(dtype)
    logits.requires_grad_()
    mask = torch.tensor(truth).expand(2, 1, 4, 5)
    value = build(name)(logits, mask)
    value.backward()
    assert (value.dtype, value.shape) == (torch.float32, ())
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_truth_itself_costs_next_to_nothing(name: str) -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, 2:6, 2:6] = 1
    lowest = build(name)((2 * mask - 1) * 40, mask)
    for wrong in (torch.zeros_like(mask), torch.ones_like(mask), 1 - mask):
        assert lowest < build(name)((2 * wrong - 1) * 40, mask)
    assert lowest == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "focal_tversky", "mcc"])
@pytest.mark.parametrize("pool", ["image", "batch"])
def test_on_an_empty_mask_false_alarms_cost_or_nothing_does(name: str, pool: str) -> None:
    empty = torch.zeros(2, 1, 8, 8)
    assert build(name, pool=pool)(empty - 40, empty) == pytest.approx(0, abs=1e-4)
    logits = torch.full_like(empty, -4.0, requires_grad=True)
    value = build(name, pool=pool)(logits, empty)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value > 0.1
    assert (gradient > 0).all()
    value = build(name, pool=pool, empty="skip")(logits, empty)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", POOLED)
def test_pool_image_is_the_mean_over_images(name: str, batch: tuple[Tensor, Tensor]) -> None:
    logits, mask = batch
    each = [build(name, pool="image")(z[None], m[None]) for z, m in zip(logits, mask, strict=True)]
    torch.testing.assert_close(build(name, pool="image")(logits, mask), torch.stack(each).mean())


def others(name: str, pool: str) -> tuple[Any, dict[str, float]]:
    """The same definition, written by other people, and our options for it."""
    from monai.losses import DiceLoss, FocalLoss, TverskyLoss
    from segmentation_models_pytorch.losses import JaccardLoss, LovaszLoss, MCCLoss

    smooth = {"smooth_nr": 0.5, "smooth_dr": 0.5, "sigmoid": True, "batch": pool == "batch"}
    mcc = MCCLoss(eps=0)
    return {
        "focal": (FocalLoss(gamma=1.5, alpha=0.3), {"gamma": 1.5, "alpha": 0.3}),
        "dice": (DiceLoss(**smooth), {"smooth": 0.5}),
        "tversky": (TverskyLoss(alpha=0.2, beta=0.8, **smooth), {"smooth": 0.5, "alpha": 0.8}),
        "jaccard": (JaccardLoss("binary", smooth=1.0), {}),
        "mcc": (lambda logits, mask: mcc(logits.sigmoid(), mask), {"smooth": 1e-6}),
        "lovasz": (LovaszLoss("binary", per_image=pool == "image"), {}),
    }[name]


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        *itertools.product(["dice", "tversky", "lovasz"], ["image", "batch"]),
        *itertools.product(["focal", "jaccard", "mcc"], ["batch"]),
    ],
)
def test_equals_other_peoples(name: str, pool: str, batch: tuple[Tensor, Tensor]) -> None:
    other, options = others(name, pool)
    pooled = {"pool": pool} if name in POOLED else {}
    torch.testing.assert_close(build(name, **pooled, **options)(*batch), other(*batch))


def test_computes_in_fp32_under_autocast(batch: tuple[Tensor, Tensor]) -> None:
    logits, mask = batch
    for name in NAMES:
        plain = build(name)(logits, mask)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(build(name)(logits, mask), plain, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_type_of_the_mask_does_not_matter_but_its_shape(
    name: str, batch: tuple[Tensor, Tensor]
) -> None:
    logits, mask = batch
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.float64):
        torch.testing.assert_close(build(name)(logits, mask.to(dtype)), build(name)(logits, mask))
    with pytest.raises(ValueError, match="differ"):  # it would broadcast
        build(name)(logits, mask[:, 0])


@pytest.mark.parametrize(
    ("name", "options"),
    [("dice", {"pool": "volume"}), ("tversky", {"alpha": 1.2}), ("bce", {"alpha": 0.5})],
)
def test_refuses_options_out_of_range(name: str, options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        Loss(name=name, **options)


def test_the_boundary_loss_of_older_configs_is_answered_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"loss\.name: loss 'boundary' is gone: .* Dice"):
        Loss(name="boundary")
