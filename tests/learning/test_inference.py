"""Inference: the native grid, whatever the batches, and nothing where there is no brain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from seglab.core.registry import LOSSES
from seglab.data.geometry import to_native
from seglab.data.open import StudyData
from seglab.evaluation.metrics import score_patient
from seglab.learning.device import Compute
from seglab.learning.inference import Predictor, brain_rows, build_case, validate
from seglab.models.unet import UNet


class Bright(nn.Module):
    """Takes for tumour what is brighter than a threshold: no weights, a known answer."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(image))
        middle = image.shape[1] // 2
        return (image[:, middle : middle + 1] - 0.4) * 20


class Filling(Predictor):
    """Fills its batches wherever it runs."""

    fills_batches = True  # type: ignore[assignment]


CPU = Compute(torch.device("cpu"), "fp32", 1)


def predictor(batch_size: int = 32, context: int = 0) -> Predictor:
    return Predictor(Bright(), CPU, context, batch_size)


@pytest.mark.parametrize(("batch_size", "context"), [(32, 0), (1, 0), (7, 1), (32, 2)])
def test_the_answer_is_the_known_one_whatever_the_batches_and_neighbours(
    data: StudyData, batch_size: int, context: int
) -> None:
    patient = data.cache.by_id[data.split.train[0]]
    levels = data.cache.images[0][patient.rows].astype(np.float32)
    expected = 1 / (1 + np.exp(-((levels / 255 - 0.5) / 0.25 - 0.4) * 20))
    expected[patient.brain_px == 0] = 0
    assert (patient.brain_px == 0).any()
    native = predictor(batch_size, context).native(data.cache, patient)
    assert native.shape == (patient.count, *patient.native_shape)
    assert native.dtype == np.float32
    assert np.allclose(native, to_native(expected, patient), atol=1e-5)


@pytest.mark.parametrize("batch_size", [7, 64])
def test_filled_batches_have_one_size_and_change_nothing(data: StudyData, batch_size: int) -> None:
    network = UNet(3, base_channels=2, depth=2)
    for name in data.split.val:
        rows = brain_rows(data.cache, data.cache.by_id[name])
        assert len(rows) % batch_size
        plain, filling = (kind(network, CPU, 1, batch_size) for kind in (Predictor, Filling))
        pairs = zip(plain.logits(data.cache, rows), filling.logits(data.cache, rows), strict=True)
        for (part, logits), (same_part, same_logits) in pairs:
            assert np.array_equal(part, same_part)
            torch.testing.assert_close(same_logits, logits, rtol=1e-5, atol=1e-5)
    counting = Filling(Bright(), CPU, 0, batch_size)
    validate(counting, data.cache, data.split.val, 0.5)
    assert set(counting.network.sizes) == {batch_size}


def test_a_case_carries_the_score_of_its_own_prediction(data: StudyData) -> None:
    name = data.split.val[0]
    patient = data.cache.by_id[name]
    probability = predictor().native(data.cache, patient)
    case = build_case(data.cache, patient, probability, probability > 0.5)
    again = score_patient(
        name, case.prediction, case.truth, case.spacing_mm, contiguous=True, grade=case.score.grade
    )
    assert again == case.score or np.isnan(case.score.dice)
    ((scored,), _) = validate(predictor(), data.cache, [name], 0.5)
    assert scored.tp == case.score.tp


class Towards(nn.Module):
    """Gives the true pixels of a batch the logit wanted, all others -2."""

    def __init__(self, truth: np.ndarray, wanted: float) -> None:
        super().__init__()
        self.truth, self.wanted, self.first = truth, wanted, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        truth = torch.from_numpy(self.truth[self.first : self.first + len(image)])
        self.first += len(image)
        return torch.where(truth[:, None] > 0, self.wanted, -2.0)


@pytest.mark.parametrize("name", [entry.name for entry in LOSSES])
def test_val_loss_falls_when_dice_rises(data: StudyData, name: str) -> None:
    cache = data.cache
    patient = next(cache.by_id[n] for n in data.split.train if cache.by_id[n].tumour_px.any())
    truth = cache.masks(brain_rows(cache, patient))
    found, loss = [], LOSSES.build(name, {})
    for wanted in (-3.0, -1.0, 1.0, 4.0):
        network = Predictor(Towards(truth, wanted), CPU, 0, 5)
        (scored,), value = validate(network, cache, [patient.patient_id], 0.5, loss=loss)
        found.append((value, scored.dice))
    losses, dices = zip(*found, strict=True)
    assert list(losses) == sorted(losses, reverse=True)
    assert losses[0] > 1.05 * losses[-1]
    assert dices[0] == 0
    assert dices[-1] > 0.9
