"""Distances to a mask's edge, against scipy's transform."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from seglab.losses import distance as distances
from seglab.losses.boundary import signed_distance, signed_distance_there


@pytest.mark.parametrize("distance", [signed_distance, signed_distance_there])
def test_signed_distances_are_scipy_s(distance: Callable[[Tensor], Tensor]) -> None:
    mask = (torch.rand(3, 1, 17, 23, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    mask[1] = 0
    for ours, truth in zip(distance(mask), mask.numpy(), strict=True):
        outside = distance_transform_edt(1 - truth[0])
        inside = distance_transform_edt(truth[0])
        expected = outside * (1 - truth[0]) - (inside - 1) * truth[0]
        if not truth.any():
            expected *= 0
        torch.testing.assert_close(ours[0].double(), torch.from_numpy(expected).double())


def test_distances_in_blocks_equal_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = torch.rand(3, 31, 44, generator=torch.Generator().manual_seed(0)) < 0.004
    whole = distances.distance_to(targets)
    for ours, truth in zip(whole, targets.numpy(), strict=True):
        expected = torch.from_numpy(distance_transform_edt(~truth)).float()
        torch.testing.assert_close(ours, expected)
    monkeypatch.setattr(distances, "_ELEMENTS", 3 * 44 * 44 * 7)
    assert torch.equal(distances.distance_to(targets), whole)


def test_distances_of_a_full_and_of_an_empty_slice_are_zero() -> None:
    masks = torch.stack([torch.ones(1, 9, 8), torch.zeros(1, 9, 8)])
    assert not signed_distance_there(masks).any()
