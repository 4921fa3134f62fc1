"""A network whose answer is known, and the bundle around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from seglab.core.config import Model
from seglab.core.registry import MODELS
from seglab.data.cache import CacheSettings
from seglab.learning.bundle import ModelBundle
from seglab.learning.operating_point import OperatingPoint
from tests.learning import bundles


class BrightFront(nn.Module):
    """Marks what is bright, in the front half only: it matters how the head lies."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.9))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        front = torch.arange(image.shape[-1], device=image.device) < image.shape[-1] / 2
        return (image - self.level) * 50 * front - 50 * ~front


def bright_front(in_channels: int) -> nn.Module:
    """Marks what is bright in the front half."""
    return BrightFront()


def make_bundle(upright: bool = False, **point: Any) -> ModelBundle:
    if "bright-front" not in MODELS:
        MODELS.register("bright-front")(bright_front)
    return bundles.make_bundle(
        "flair",
        model=Model.model_validate("bright-front"),
        target="whole",
        settings=CacheSettings(64, "none", "percentile", "volume"),
        shape=(64, 64),
        mirror_axis=1 if upright else 0,
        upright=upright,
        point=OperatingPoint(**point),
    )
