"""A patient for pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from seglab.evaluation.metrics import Case, score_patient

MakeCase = Callable[..., Case]


@pytest.fixture
def make_case() -> MakeCase:
    """Make a patient: an ellipsoid brain on its side, a tumour, and a prediction that is off."""

    def make(
        name: str = "P1",
        *,
        slices: int = 24,
        side: int = 64,
        off: int = 3,
        upright: bool = False,
        spacing: tuple[float, float, float] | None = (1.0, 1.0, 1.0),
        seed: int = 0,
    ) -> Case:
        rng = np.random.default_rng(seed)
        z, y, x = np.indices((slices, side, side))
        middle = (slices - 1) / 2
        brain = ((z - middle) / middle) ** 2 + ((y - side / 2) / (0.35 * side)) ** 2 + (
            (x - side / 2) / (0.45 * side)
        ) ** 2 < 1
        truth = (z - middle) ** 2 + (y - 0.4 * side) ** 2 + (x - 0.6 * side) ** 2 < (
            0.12 * side
        ) ** 2
        soft = ndimage.gaussian_filter(np.roll(truth, off, axis=1).astype(float), 1)
        image = (90 + 60 * truth + rng.normal(0, 8, truth.shape)).clip(1, 255) * brain
        prediction = soft > 0.5
        return Case(
            patient_id=name,
            image=image.astype(np.uint8),
            truth=truth.astype(np.uint8),
            probability=np.rint(soft * 255).astype(np.uint8),
            prediction=prediction.astype(np.uint8),
            slice_indices=np.arange(10, 10 + slices, dtype=np.int32),
            spacing_mm=spacing,
            upright=upright,
            score=score_patient(name, prediction, truth, spacing, True, surface=False),
        )

    return make
