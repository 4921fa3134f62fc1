"""A volume that is unlike the training patients is noticed, one that is like them is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from seglab.data.volume import Volume
from seglab.learning.bundle import as_volume
from seglab.learning.reference import Reference, brain_quantiles, learn_range

Spacing = tuple[float, float, float] | None
FLAIR = np.random.default_rng(0).normal(110, 25, (6, 40, 40)).clip(1, 255).astype(np.uint8)
LEVELS = {"flair": FLAIR, "t1": FLAIR // 2 + 60}


@pytest.fixture
def reference() -> Reference:
    ranges = {name: learn_range([image] * 5) for name, image in LEVELS.items()}
    return Reference(
        patients=5,
        frame=[[240, 240], [240, 240]],
        spacing_mm=[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]],
        intensities={name: one for name, one in ranges.items() if one is not None},
        lesion_z=2.0,
        skull_fall=None,
    )


def volume(side: int = 240, spacing_mm: Spacing = (1.0, 1.0, 1.0)) -> Volume:
    images = np.zeros((2, 6, side, side), np.float32)
    return replace(as_volume(images, tuple(LEVELS), shared_scale=True), spacing_mm=spacing_mm)


def test_training_s_own_kind_is_silent(reference: Reference) -> None:
    assert reference.differences(volume(), LEVELS) == []
    assert reference.differences(volume(spacing_mm=None), LEVELS) == []
    assert reference.differences(volume(250, (1.05, 1, 1)), LEVELS) == []
    assert reference.faint(1.7, may_be_t1=True) is None


def test_frame_spacing_and_intensity_are_told_with_their_figures(reference: Reference) -> None:
    (frame,) = reference.differences(volume(512), LEVELS)
    assert "512×512" in frame
    assert "240×240" in frame
    (spacing,) = reference.differences(volume(spacing_mm=(5, 1, 1)), LEVELS)
    assert "5×1×1" in spacing
    (intensity,) = reference.differences(volume(), {**LEVELS, "t1": FLAIR})
    assert "the brightness of t1 is" in intensity
    assert "standard deviations from training's: percentile" in intensity


def test_a_skull_is_told_where_training_had_none_and_the_other_way(reference: Reference) -> None:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    radius = np.sqrt(x**2 + y**2)
    whole = np.select([radius < 0.7, radius < 0.82, radius < 0.97], [110, 20, 220], 0)
    whole = np.stack([whole] * 6).astype(np.uint8)
    stripped = np.where(radius < 0.7, whole, 0).astype(np.uint8)
    for fall, silent, told, words in (
        (0.05, stripped, whole, "skull is on"),
        (0.9, whole, stripped, "skull was taken off"),
    ):
        trained = replace(reference, skull_fall=fall, intensities={})
        assert any(words in text for text in trained.differences(volume(), {"flair": told}))
        assert not any("skull" in text for text in trained.differences(volume(), {"flair": silent}))


def test_a_faint_prediction_is_no_flair_tumour(reference: Reference) -> None:
    told = str(reference.faint(1.5, may_be_t1=True))
    assert told == (
        "perhaps T1, not FLAIR; check the mask: the tumour is +1.5 σ brighter than the brain, "
        "95 % of training's are more than +2.0 σ"
    )
    assert reference.faint(1.5, may_be_t1=False) == told.partition("; ")[2]


def test_brain_quantiles_are_numpys() -> None:
    image = np.random.default_rng(1).integers(0, 200, (5, 40, 40)).astype(np.uint8)
    oracle = np.quantile(
        image[image > 0], (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98), method="inverted_cdf"
    )
    assert brain_quantiles(image) == pytest.approx(oracle)


def test_too_few_training_patients_show_no_range() -> None:
    assert learn_range([FLAIR] * 4) is None
    assert learn_range([np.zeros_like(FLAIR)] * 9) is None
