"""A volume that is unlike the training patients is noticed, one that is like them is not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from seglab.data.sources import Volume
from seglab.learning.reference import Reference, level_percentiles
from seglab.learning.segmenter import as_volume

Spacing = tuple[float, float, float] | None
LEVELS = np.random.default_rng(0).normal(110, 25, (6, 40, 40)).clip(1, 255).astype(np.uint8)


@pytest.fixture
def reference() -> Reference:
    mean = level_percentiles(LEVELS)
    assert mean is not None
    return Reference(
        patients=5,
        frame=((240, 240), (240, 240)),
        spacing_mm=((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        levels_mean=tuple(mean.tolist()),
        levels_sd=tuple(2.0 for _ in mean),
        lesion_z=2.0,
        skull_fall=None,
    )


def volume(side: int = 240, spacing_mm: Spacing = (1.0, 1.0, 1.0)) -> Volume:
    return as_volume(np.zeros((6, side, side), np.float32), spacing_mm=spacing_mm)


def test_training_s_own_kind_is_silent(reference: Reference) -> None:
    assert reference.differences(volume(), LEVELS) == []
    assert reference.differences(volume(spacing_mm=None), LEVELS) == []
    assert reference.differences(volume(250, (1.05, 1, 1)), LEVELS) == []
    assert reference.faint(1.7) is None


def test_frame_spacing_and_intensity_are_told_with_their_figures(reference: Reference) -> None:
    (frame,) = reference.differences(volume(512), LEVELS)
    assert "512×512" in frame
    assert "240×240" in frame
    (spacing,) = reference.differences(volume(spacing_mm=(5, 1, 1)), LEVELS)
    assert "5×1×1" in spacing
    (intensity,) = reference.differences(volume(), LEVELS // 2 + 1)
    assert "percentile" in intensity
    assert "σ" in intensity


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
        trained = replace(reference, skull_fall=fall)
        assert any(words in text for text in trained.differences(volume(), told))
        assert not any("skull" in text for text in trained.differences(volume(), silent))


def test_a_faint_prediction_is_no_flair_tumour(reference: Reference) -> None:
    told = reference.faint(1.5)
    assert told is not None
    assert "+1.5" in told
    assert "T1" in told


def test_an_empty_image_has_no_percentiles(reference: Reference) -> None:
    empty = np.zeros_like(LEVELS)
    assert level_percentiles(empty) is None
    assert reference.differences(volume(), empty) == []


def test_it_survives_json(reference: Reference) -> None:
    assert Reference.from_dict(json.loads(json.dumps(reference.to_dict()))) == reference
