"""Warps against albumentations and closed forms."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from statistics import NormalDist

import albumentations as A
import cv2
import numpy as np
import pytest
from albumentations.augmentations.geometric.functional import generate_displacement_fields

from seglab.data.augment.displacement import (
    Edges,
    at_positions,
    displacement_field,
    free_covariance,
    low_rank_root,
    node_positions,
    product,
    replicate_covariance,
    source_maps,
    typical_maximum,
)
from seglab.data.augment.intensity import Noise, Tone
from seglab.data.augment.warp import Affine, Elastic, Warp


def our_fields(
    count: int, height: int, width: int, alpha: float, sigma: float, edges: Edges
) -> np.ndarray:
    """Displacements as an image would feel them: the maps less the pixels' own coordinates."""
    rng = np.random.default_rng(1)
    field = displacement_field(height, width, alpha, sigma, edges)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    maps = (source_maps(field, field.draw(rng), np.eye(2, 3)) for _ in range(count))
    return np.array([(map_x - x, map_y - y) for map_x, map_y in maps])


def their_fields(count: int, height: int, width: int, alpha: float, sigma: float) -> np.ndarray:
    rng = np.random.default_rng(2)
    fields = [
        generate_displacement_fields((height, width), alpha, sigma, False, (0, 0), rng, "gaussian")
        for _ in range(count)
    ]
    return np.array(fields)


def correlation_length(fields: np.ndarray, axis: int) -> float:
    """Lag in pixels at which the correlation along ``axis`` falls to 1/e."""
    moved = np.moveaxis(fields, axis, -1)
    length = moved.shape[-1]
    correlation = np.array(
        [(moved[..., : length - lag] * moved[..., lag:]).mean() for lag in range(length // 2)]
    )
    below = int(np.argmax(correlation < correlation[0] / np.e))
    above, under = correlation[below - 1 : below + 1] / correlation[0]
    return below - 1 + float((above - 1 / np.e) / (above - under))


@pytest.mark.parametrize(("height", "width", "sigma"), [(120, 96, 4.0), (97, 127, 6.0)])
def test_displacement_statistics_equal_albumentations(
    height: int, width: int, sigma: float
) -> None:
    ours = our_fields(400, height, width, 100, sigma, "replicate")
    theirs = their_fields(400, height, width, 100, sigma)
    assert abs(ours.mean() - theirs.mean()) < 0.05 * theirs.std()
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
    assert np.abs(ours).mean() == pytest.approx(np.abs(theirs).mean(), rel=0.05)
    assert ours[:, :, 0].std() == pytest.approx(theirs[:, :, 0].std(), rel=0.1)
    for axis in (2, 3):
        assert correlation_length(ours, axis) == pytest.approx(
            correlation_length(theirs, axis), rel=0.05
        )


def test_free_edges_have_the_statistics_of_the_interior_everywhere() -> None:
    sigma, margin = 4.0, 16
    ours = our_fields(400, 120, 96, 100, sigma, "free")
    inner = their_fields(400, 120, 96, 100, sigma)[..., margin:-margin, margin:-margin]
    assert ours.std() == pytest.approx(inner.std(), rel=0.05)
    assert ours[..., 0].std() == pytest.approx(inner.std(), rel=0.05)
    assert ours[:, :, -1].std() == pytest.approx(inner.std(), rel=0.05)
    assert correlation_length(ours, 3) == pytest.approx(correlation_length(inner, 3), rel=0.05)
    assert abs(np.corrcoef(ours[:, 0].ravel(), ours[:, 1].ravel())[0, 1]) < 0.02


def test_free_covariance_is_the_replicated_one_far_from_the_edges() -> None:
    inner = slice(40, 80)
    np.testing.assert_allclose(
        free_covariance(np.arange(120.0), 5.0)[inner, inner],
        replicate_covariance(120, 5.0)[inner, inner],
        atol=1e-4 / 5,
    )


def test_low_rank_root_gives_back_the_covariance() -> None:
    covariance = replicate_covariance(100, 8.0)
    root = low_rank_root(covariance)
    assert root.shape[1] < 20
    variance = covariance.diagonal()
    lost = variance - (root**2).sum(axis=1)
    assert lost.min() > -1e-12
    assert (lost / variance).max() <= 0.01
    identity = np.eye(7)
    np.testing.assert_allclose(low_rank_root(identity) @ low_rank_root(identity).T, identity)


@pytest.mark.parametrize(("length", "step"), [(20, 4), (21, 4), (7, 1), (50, 3)])
def test_nodes_lie_where_resizing_puts_them(length: int, step: int) -> None:
    nodes = node_positions(length, step)
    line = cv2.resize(nodes[None], (len(nodes) * step, 1), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(line[0, step : step + length], np.arange(length), atol=1e-6)
    rows = np.arange(length)[:, None] * [[1.0, -2.0]]
    np.testing.assert_allclose(at_positions(rows, nodes), nodes[:, None] * [[1.0, -2.0]])


def test_typical_maximum_is_the_median_of_simulated_maxima() -> None:
    maxima = np.abs(np.random.default_rng(0).standard_normal((2000, 500))).max(axis=1)
    assert typical_maximum(500) == pytest.approx(np.median(maxima), rel=0.02)


def test_product_in_blocks_equals_one_product() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((700, 30)), rng.standard_normal((30, 300))
    blocks = product(left.astype(np.float32), right.astype(np.float32))
    np.testing.assert_allclose(blocks, left @ right, rtol=1e-3, atol=1e-4)


def test_source_maps_displace_first_and_map_affinely_then() -> None:
    height, width = 30, 44
    field = displacement_field(height, width, 80, 5, "free")
    weights = field.draw(np.random.default_rng(0))
    matrix = np.array([[0.9, 0.2, -3.0], [-0.1, 1.1, 2.0]])
    displaced = [*source_maps(field, weights, np.eye(2, 3)), np.ones((height, width))]
    expected = np.tensordot(matrix, np.stack(displaced), 1)
    np.testing.assert_allclose(source_maps(field, weights, matrix), expected, atol=1e-3)


@pytest.mark.parametrize("limits", [{"rotate_deg": 30.0}, {"scale": 0.3}])
def test_rotation_and_scale_equal_albumentations(limits: dict[str, float]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 1), dtype=np.uint8)
    warp = Warp(affine=Affine(**limits))
    warp.set_random_seed(5)
    ours = warp(image=image, mask=image[..., 0])
    forward = np.linalg.inv(warp.get_applied_params()["matrix"][:, :2].astype(float))
    scale = float(np.sqrt(np.linalg.det(forward)))
    angle = float(np.degrees(np.arctan2(forward[0, 1], forward[0, 0])))  # counter-clockwise
    theirs = A.Affine(rotate=(angle, angle), scale=(scale, scale), p=1)
    expected = theirs(image=image, mask=image[..., 0])
    assert np.mean(ours["image"] != expected["image"]) < 0.01
    assert np.mean(ours["mask"] != expected["mask"]) < 0.01


def test_shift_moves_image_and_mask_by_the_drawn_distance() -> None:
    image = np.zeros((50, 70, 1), np.uint8)
    image[20:24, 30:33] = 200
    warp = Warp(affine=Affine(shift=0.2))
    for _ in range(20):
        moved = warp(image=image, mask=image[..., 0] // 200)
        x, y = -warp.get_applied_params()["matrix"][:, 2]
        assert abs(x) <= 14
        assert abs(y) <= 10
        weights = moved["image"][..., 0] / moved["image"].sum()
        assert (weights.sum(1) @ np.arange(50), weights.sum(0) @ np.arange(70)) == pytest.approx(
            (21.5 + y, 31.0 + x), abs=0.05
        )
        rows, columns = np.nonzero(moved["mask"])
        assert (rows.mean(), columns.mean()) == pytest.approx((21.5 + y, 31.0 + x), abs=0.51)


def test_affine_limits_hold_and_are_reached() -> None:
    limits, uniform = Affine(rotate_deg=15, scale=0.2, shift=0.1), random.Random(0).uniform
    angles, scales = [], []
    for _ in range(500):
        forward = np.linalg.inv(limits.draw(uniform, 100, 100)[:, :2].astype(float))
        scales.append(np.sqrt(np.linalg.det(forward)))
        angles.append(np.degrees(np.arctan2(forward[0, 1], forward[0, 0])))
    assert -15.01 <= min(angles) < -14
    assert 14 < max(angles) <= 15.01
    assert 0.799 <= min(scales) < 0.82
    assert 1.18 < max(scales) <= 1.201


def test_warp_replays_in_albumentations() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8)
    mask = (image[..., 0] > 128).astype(np.uint8)
    replay = A.ReplayCompose([Warp(affine=Affine(15), elastic=Elastic(100, 8)), Tone(0.1, 0.2)])
    first = replay(image=image, mask=mask)
    again = A.ReplayCompose.replay(first["replay"], image=image, mask=mask)
    np.testing.assert_array_equal(first["image"], again["image"])
    np.testing.assert_array_equal(first["mask"], again["mask"])


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    code = (
        "import hashlib, numpy as np\n"
        "from seglab.data.augment.displacement import displacement_field, source_maps\n"
        "field = displacement_field(512, 512, 250, 10, 'free')\n"
        "weights = field.draw(np.random.default_rng(0))\n"
        "maps = source_maps(field, weights, np.eye(2, 3))\n"
        "print(hashlib.sha256(np.stack(maps).tobytes()).hexdigest())"
    )
    digests = set()
    for threads in "12":
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(ran.stdout)
    assert len(digests) == 1


def test_noise_has_the_stated_spread_in_every_channel() -> None:
    image = np.full((128, 128, 3), 120, np.uint8)
    noise = Noise(sd=0.1)
    noise.set_random_seed(0)
    drawn = [noise.get_params_dependent_on_data({}, {"image": image})["noise"] for _ in range(300)]
    # Var = E[(sd · U)²] for U uniform on [0, 1].
    assert np.std(drawn) == pytest.approx(25.5 / np.sqrt(3), rel=0.06)
    sample = max(drawn, key=np.std) / np.std(max(drawn, key=np.std))
    assert np.abs(np.corrcoef(sample.reshape(-1, 3).T) - np.eye(3)).max() < 0.05
    within = NormalDist().cdf(1) - NormalDist().cdf(-1)
    assert (np.abs(sample) < 1).mean() == pytest.approx(within, abs=0.03)


def test_tone_is_neutral_at_zero_and_monotone() -> None:
    table = Tone(0, 0, 1).get_params()["table"]
    np.testing.assert_array_equal(table, np.arange(256))
    tone = Tone(0.2, 0.4, 1.5)
    for _ in range(50):
        assert (np.diff(tone.get_params()["table"].astype(int)) >= 0).all()
