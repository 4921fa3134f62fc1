"""Configs that earlier versions logged still load, as what they meant."""

from __future__ import annotations

from typing import Any

import pytest

from seglab.core.older import as_of_today
from seglab.core.study import build_run

LOGGED: list[dict[str, Any]] = [
    {"name": "none"},
    {"name": "default", "strength": 1.0},
    {"name": "rotate", "limit_deg": 15, "p": 0.8},
    {"name": "scale", "limit": 0.15, "p": 0.8},
    {"name": "affine", "rotate_deg": 15, "scale": 0.15, "shift": 0.04, "p": 0.8},
    {"name": "elastic", "alpha": 250.0, "sigma": 10.0, "edges": "free", "p": 0.5},
    {"name": "grid", "steps": 5, "limit": 0.2, "p": 0.5},
    {"name": "brightness_contrast", "brightness": 0.1, "contrast": 0.2, "p": 0.5},
    {"name": "gamma", "limit": 1.4, "p": 0.5},
    {"name": "noise", "sd": 0.05, "p": 0.5},
    {"name": "blur", "sigma": 1.0, "p": 0.5},
    {"name": "bias_field", "strength": 0.15, "p": 0.5},
    {"name": "dropout", "holes": 8, "size": 0.12, "p": 0.5},
]


def logged(augment: dict[str, Any], **train: object) -> dict[str, Any]:
    data = {"source": "brats-h5", "root": "x"}
    return {"name": "old", "data": data, "augment": augment, "train": {"epochs": 3, **train}}


@pytest.mark.parametrize("augment", LOGGED, ids=lambda block: str(block["name"]))
def test_every_augmentation_that_there_was_loads(augment: dict[str, Any]) -> None:
    config = build_run(as_of_today(logged(augment)))
    assert config.train.keep == "best"
    assert config.data.normalise_scope == "slice"
    again = build_run(as_of_today(config.to_dict()))
    assert again == config


def test_sizes_in_pixels_of_the_baseline_become_millimetres() -> None:
    config = build_run(as_of_today(logged(LOGGED[5])))
    assert config.augment.options == {
        "sd_mm": pytest.approx(4.0),  # 250 / (15 · 10) px of 2.4 mm
        "sigma_mm": pytest.approx(24.0),
        "p": 0.5,
    }


def test_a_config_of_today_is_left_as_it_is() -> None:
    document = logged({"name": "mirror", "p": 0.5}, keep="last")
    assert as_of_today(document) == document
