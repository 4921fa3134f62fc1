"""Masks from probabilities, and the setting that validation chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from seglab.learning.inference import Mirrored
from seglab.learning.operating_point import (
    PLAIN,
    SMALLEST_COMPONENTS_PX,
    THRESHOLDS,
    OperatingPoint,
    score_settings,
    select,
)


def smooth_noise(seed: int, shape: tuple[int, int, int] = (7, 24, 20)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    scaled = (noise - noise.min()) / np.ptp(noise)
    return scaled.astype(np.float32)


def test_small_components_go_and_large_ones_stay() -> None:
    mask = np.zeros((4, 10, 10), np.float32)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = 1  # joined by corners only: 3 voxels
    mask[0, 6, 6] = 1
    mask[3, 7:9, 7:9] = 1
    point = OperatingPoint(smallest_component_px=3)
    kept = point.apply(mask, np.arange(4))
    assert kept.sum() == 3 + 4
    assert not kept[0, 6, 6]
    assert point.apply(mask, np.array([4, 5, 7, 8])).sum() == 4  # a gap parts the three


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
    plain = np.array([0.2, 0.5, 0.7, 0.9])
    # Gains of ±0.04 around their mean have a standard error of 0.0231 over four patients.
    spread = np.array([-0.04, 0.04, 0.04, -0.04])
    error = 0.04 * np.sqrt(4 / 3) / 2
    near = select({PLAIN: plain, better: plain + 0.9 * error + spread})
    assert near.point == PLAIN
    assert next(iter(near.dice)) == better
    assert near.standard_error == pytest.approx(error)
    far = select({PLAIN: plain, better: plain + 1.1 * error + spread})
    assert far.point == better
    assert far.dice[far.point] == pytest.approx(plain.mean() + 1.1 * error)
    # What all patients gain has no error, but a small gain is no gain.
    for gain, point in ((0.0025, better), (0.0015, PLAIN)):
        assert select({PLAIN: plain, better: plain + gain}).point == point


def test_holes_are_filled_slice_by_slice() -> None:
    ring = np.zeros((2, 7, 7), np.float32)
    ring[0, 1:6, 1:6] = ring[1, 1:6, 1:6] = 1
    ring[0, 2:5, 2:5] = ring[1, 3, 0:4] = 0  # the second is open to the border
    filled = OperatingPoint(fill_holes=True).apply(ring, np.arange(2))
    assert filled[0].sum() == 25
    assert np.array_equal(filled[1], ring[1] > 0)


def test_among_good_ones_the_simplest_is_chosen() -> None:
    scores = {
        PLAIN: [0.1, 0.3],
        OperatingPoint(0.3): [0.6, 0.8],
        OperatingPoint(0.4): [0.6, 0.8],
        OperatingPoint(0.4, 50): [0.59, 0.82],
        OperatingPoint(0.4, mirror=True): [0.58, 0.83],
    }
    assert select(scores).point == OperatingPoint(0.4)


@pytest.mark.parametrize("patients", [0, 1])
def test_too_few_patients_choose_nothing(patients: int) -> None:
    scores = {PLAIN: [0.5], OperatingPoint(0.2): [0.9]} if patients else {}
    selection = select(scores)
    assert selection.point == PLAIN
    assert selection.patients == patients
    assert selection.to_json()["standard_error_to_plain"] is None


@pytest.mark.parametrize("axis", [0, 1])
def test_mirroring_makes_a_one_sided_network_symmetric(axis: int) -> None:
    class LeftOnly(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            weight = torch.zeros(image.shape[-2:])
            weight.select(axis, 0).fill_(1)
            return image * weight

    image = torch.rand(2, 1, 6, 8)
    logits = Mirrored(LeftOnly(), axis)(image)
    assert torch.equal(logits.select(2 + axis, 0), image.select(2 + axis, 0) / 2)
    assert torch.equal(logits.select(2 + axis, -1), image.select(2 + axis, -1) / 2)
