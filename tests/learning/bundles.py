"""A bundle of random weights, raw volumes for it, and what its network makes of their levels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from seglab.core.config import Model
from seglab.data.cache import CacheSettings
from seglab.learning.bundle import ModelBundle, ModelCard
from seglab.learning.device import Compute
from seglab.learning.inference import Predictor
from seglab.learning.operating_point import OperatingPoint
from seglab.models.build import build_model

CPU = Compute(torch.device("cpu"), "fp32", 1)
SIDE = 32


def make_bundle(*modalities: str, context: int = 0, **changes: Any) -> ModelBundle:
    card = ModelCard(
        name="test",
        model=Model(name="unet", base_channels=2, depth=2),
        modalities=modalities,
        target="enhancing",
        context=context,
        precision="fp32",
        settings=CacheSettings(SIDE, "none", "zscore", "volume"),
        shape=(SIDE, SIDE),
        mirror_axis=0,
        upright=False,
        shared_scale=True,
        point=OperatingPoint(0.45, fill_holes=True),
    )
    card = replace(card, **changes)
    torch.manual_seed(3)
    network = build_model(card.model, len(card.channels), card.shape).eval()
    return ModelBundle(card, Predictor(network, CPU, context))


def stack(modalities: int, seed: int = 0) -> np.ndarray:
    """Raw (M, S, H, W): a round brain of whole numbers, others in each modality, in air of 0."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    noise = np.random.default_rng(seed).integers(50, 900, (modalities, 5, SIDE, SIDE))
    return np.where(x**2 + y**2 < 0.5, noise, 0).astype(np.float32)


def levels(image: np.ndarray, below: float, above: float) -> np.ndarray:
    """Levels 0 to 255 of (S, H, W) between so many deviations from the mean of the brain."""
    brain = image[image > 0].astype(np.float64)
    low, high = brain.mean() + below * brain.std(), brain.mean() + above * brain.std()
    q = np.rint((np.clip(image, low, high) - low) / (high - low) * 254 + 1)
    return np.where(image > 0, q, 0)


def expected_probability(bundle: ModelBundle, channels: np.ndarray) -> np.ndarray:
    """What the network makes of levels (S, C, H, W)."""
    image = torch.from_numpy((channels / 255 - 0.5) / 0.25).float()
    with torch.no_grad():
        return bundle.predictor.network(image)[:, 0].sigmoid().numpy()
