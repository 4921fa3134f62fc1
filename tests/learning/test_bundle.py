"""The exported model: its input by modality, its card, and models of the first format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from seglab.core.config import Model
from seglab.core.errors import UserError
from seglab.learning.bundle import ModelCard, as_volume, load_bundle
from seglab.learning.checkpoint import save_weights
from seglab.models.build import build_model
from tests.learning.bundles import CPU, SIDE, expected_probability, levels, make_bundle, stack


def test_modalities_are_picked_by_name() -> None:
    bundle = make_bundle("t1ce", "flair")
    images = stack(3)
    plain = bundle.predict(images[:2])
    given = as_volume(images[[2, 1, 0]], ("t2", "flair", "t1ce"), shared_scale=True)
    assert 0 < plain.mean() < 1
    assert np.array_equal(bundle.segment(given).mask, plain)
    swapped = as_volume(images[:2], ("flair", "t1ce"), shared_scale=True)
    assert not np.array_equal(bundle.segment(swapped).mask, plain)
    missing = as_volume(stack(2), ("flair", "t2"), shared_scale=True)
    with pytest.raises(UserError, match=r"volume: .* t1ce, flair; t1ce is missing"):
        bundle.segment(missing)


@pytest.mark.parametrize(
    ("modalities", "images", "told"),
    [
        (["flair"], stack(2), r"\(slices, rows, columns\) of flair .*got the shape \(2, 5, 32, 32"),
        (["flair"], stack(1)[0, 0], r"got the shape \(32, 32\)"),
        (["t1", "t2"], stack(1)[0], r"\(2, slices, rows, columns\) of t1, t2 in this order"),
        (["t1", "t2"], stack(2)[:, :0], r"got the shape \(2, 0, 32, 32\)"),
        (["t1", "t2"], np.stack([stack(1)[0], np.full((5, SIDE, SIDE), np.nan)]), "images of t2"),
    ],
)
def test_arrays_that_do_not_fit_are_told_what_the_axes_mean(
    modalities: list[str], images: np.ndarray, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        make_bundle(*modalities).predict(images)


def test_what_is_saved_comes_back_but_in_another_format(tmp_path: Path) -> None:
    bundle = make_bundle("flair", "t1", context=1, run_id="0" * 32)
    bundle.save(tmp_path)
    back = load_bundle(tmp_path, CPU)
    assert back.card == bundle.card
    assert np.array_equal(back.predict(stack(2)), bundle.predict(stack(2)))
    (tmp_path / "model.json").write_text(json.dumps(bundle.card.to_json() | {"format": 3}))
    with pytest.raises(UserError, match=r"model\.json .* format is 3"):
        load_bundle(tmp_path, CPU)


FORMAT_1 = {
    "format": 1,
    "name": "older",
    "model": {
        "name": "unet", "base_channels": 2, "depth": 2, "norm": "batch", "up": "transpose",
        "dropout": 0.0, "pad": False,
    },
    "context": 0,
    "precision": "fp32",
    "settings": {
        "image_size": SIDE, "crop": "none", "normalise": "zscore", "normalise_scope": "volume",
        "channel": 0,
    },
    "shape": [SIDE, SIDE],
    "mirror_axis": 0,
    "upright": False,
    "keeps_volume_scale": True,
    "point": {
        "threshold": 0.45, "smallest_component_px": 0, "fill_holes": False, "mirror": False
    },
    "reference": {
        "patients": 12,
        "frame": [[240, 240], [240, 240]],
        "spacing_mm": None,
        "levels_mean": [3.0, 22.5, 79.5, 94.0, 108.5, 135.0, 172.5],
        "levels_sd": [0.0, 1.5, 0.5, 1.0, 0.5, 1.0, 1.5],
        "lesion_z": 3.1,
        "skull_fall": 0.07,
    },
    "run_id": None,
}  # fmt: skip
"""As the code of that time wrote it."""


@pytest.mark.parametrize(
    ("channel", "upright", "modality"),
    [(0, False, "flair"), (2, False, "t1ce"), (1, True, "flair")],
)
def test_models_of_the_first_format_predict_as_they_did(
    tmp_path: Path, channel: int, upright: bool, modality: str
) -> None:
    settings = {**FORMAT_1["settings"], "channel": channel}
    values = FORMAT_1 | {"settings": settings, "upright": upright}
    (tmp_path / "model.json").write_text(json.dumps(values))
    torch.manual_seed(3)
    network = build_model(Model.model_validate(values["model"]), 1, (SIDE, SIDE))
    save_weights(tmp_path / "weights.safetensors", network, {})
    bundle = load_bundle(tmp_path, CPU)
    assert bundle.card.modalities == (modality,)
    assert bundle.card.target == "whole"
    image = stack(1)
    found = bundle.segment(as_volume(image, (modality,), shared_scale=True)).probability
    expected = expected_probability(bundle, levels(image[0], -3, 5)[:, None])  # one range for all
    assert np.allclose(found, expected, atol=1e-5)
    again = ModelCard.from_json(json.loads(json.dumps(bundle.card.to_json())))
    assert again == bundle.card
    assert bundle.card.reference is not None
    assert bundle.card.reference.skull_fall == 0.07
