"""Masks from probabilities, and the setting that validation chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from seglab.learning.operating_point import (
    PLAIN,
    SMALLEST_COMPONENTS_PX,
    THRESHOLDS,
    choose,
    complexity,
    score_settings,
)
from seglab.learning.postprocess import Mirrored, OperatingPoint, label_components

FLOOD = ndimage.generate_binary_structure(2, 1)


def smooth_noise(seed: int, shape: tuple[int, int, int] = (7, 24, 20)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    scaled = (noise - noise.min()) / np.ptp(noise)
    return scaled.astype(np.float32)


def flood_filled(mask: np.ndarray) -> np.ndarray:
    """Fill holes by growing the background in from a border of air."""
    out = []
    for plane in mask:
        air = np.pad(~plane, 1, constant_values=True)
        seed = np.zeros_like(air)
        seed[0, 0] = True
        outside = ndimage.binary_propagation(seed, FLOOD, air)
        out.append(~outside[1:-1, 1:-1])
    return np.stack(out)


def test_plain_is_a_threshold() -> None:
    probability = smooth_noise(0)
    mask = PLAIN.apply(probability, np.arange(7))
    assert np.array_equal(mask, probability > 0.5)


def test_small_components_go_and_large_ones_stay() -> None:
    mask = np.zeros((4, 10, 10), np.float32)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = 1  # joined by corners alone: 3 voxels
    mask[0, 6, 6] = 1
    mask[3, 7:9, 7:9] = 1
    kept = OperatingPoint(smallest_component_px=3).apply(mask, np.arange(4))
    assert kept.sum() == 3 + 4
    assert not kept[0, 6, 6]


def test_components_do_not_cross_a_gap() -> None:
    mask = np.ones((3, 2, 2), bool)
    assert label_components(mask, np.array([4, 5, 6])).max() == 1
    assert label_components(mask, np.array([4, 5, 7])).max() == 2


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_filling_is_flooding_from_outside(seed: int) -> None:
    probability = smooth_noise(seed)
    filled = OperatingPoint(0.5, fill_holes=True).apply(probability, np.arange(7))
    assert np.array_equal(filled, flood_filled(probability > 0.5))


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_every_setting_scores_as_if_applied_alone(seed: int) -> None:
    probability = smooth_noise(seed)
    truth = ndimage.binary_dilation(smooth_noise(seed + 1) > 0.7)
    truth[0, 0, 0] = True
    indices = np.array([0, 1, 2, 3, 5, 6, 7])
    found = dict(score_settings(probability, truth, indices))
    assert len(found) == 2 * len(THRESHOLDS) * len(SMALLEST_COMPONENTS_PX)
    for point, dice in found.items():
        mask = point.apply(probability, indices)
        expected = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        assert dice == pytest.approx(expected, abs=1e-12)


def test_a_gain_within_one_standard_error_is_not_worth_a_step() -> None:
    better = OperatingPoint(0.4, 50)
    # The best mean is 0.82, its standard error 0.02 (spread 0.04, four patients).
    best = [0.78, 0.78, 0.86, 0.86]
    error = np.std(best, ddof=1) / 2
    near = choose({PLAIN: [0.82 - 0.9 * error] * 4, better: best})
    assert near.point == PLAIN
    assert near.best.point == better
    assert near.standard_error == pytest.approx(error)
    far = choose({PLAIN: [0.82 - 1.1 * error] * 4, better: best})
    assert far.point == better
    assert far.dice == pytest.approx(0.82)


def test_among_good_ones_the_simplest_is_chosen() -> None:
    scores = {
        PLAIN: [0.1, 0.3],
        OperatingPoint(0.3): [0.6, 0.8],
        OperatingPoint(0.4): [0.6, 0.8],
        OperatingPoint(0.4, 50): [0.61, 0.81],
        OperatingPoint(0.4, mirror=True): [0.62, 0.82],
    }
    assert choose(scores).point == OperatingPoint(0.4)


@pytest.mark.parametrize("patients", [0, 1])
def test_too_few_patients_choose_nothing(patients: int) -> None:
    scores = {PLAIN: [0.5], OperatingPoint(0.2): [0.9]} if patients else {}
    choice = choose(scores)
    assert choice.point == PLAIN
    assert choice.patients == patients
    assert choice.to_json()["standard_error"] is None


def test_complexity_counts_steps_before_distance() -> None:
    order = [
        PLAIN,
        OperatingPoint(0.6),
        OperatingPoint(0.9),
        OperatingPoint(0.5, 10),
        OperatingPoint(0.5, 500),
        OperatingPoint(0.5, mirror=True),
        OperatingPoint(0.5, 10, fill_holes=True),
    ]
    shuffled = order[::-1]
    assert sorted(shuffled, key=complexity) == order


@pytest.mark.parametrize("axis", [0, 1])
def test_mirroring_makes_a_one_sided_network_symmetric(axis: int) -> None:
    class LeftOnly(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            weight = torch.zeros(image.shape[-2:])
            weight.select(axis, 0).fill_(1)
            return image * weight

    image = torch.rand(2, 1, 6, 8)
    logits = Mirrored(LeftOnly(), axis)(image)
    mirrored = Mirrored(LeftOnly(), axis)(image.flip(2 + axis)).flip(2 + axis)
    assert torch.equal(logits, mirrored)
    assert torch.equal(logits.select(2 + axis, 0), image.select(2 + axis, 0) / 2)
    assert torch.equal(logits.select(2 + axis, -1), image.select(2 + axis, -1) / 2)
