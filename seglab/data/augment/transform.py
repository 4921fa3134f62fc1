"""What a pipeline is made of, and how one is registered."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol

import numpy as np

from seglab.core.registry import AUGMENTATIONS

Uniform = Callable[[float, float], float]
"""Draws a number between two limits, as ``random.Random.uniform`` does."""


class Transform(Protocol):
    """The part of ``albumentations.BasicTransform`` (and of ``OneOf`` …) that is used here."""

    def __call__(self, *, image: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Transform ``image`` (H, W, C) uint8 and ``mask`` (H, W) uint8 together."""

    def set_random_state(
        self, random_generator: np.random.Generator, py_random: random.Random
    ) -> None:
        """Draw from these generators from now on."""


Options = ParamSpec("Options")
Builder = Callable[Options, list[Transform]]


def pipeline(name: str) -> Callable[[Builder[Options]], Builder[Options]]:
    """Register a builder of transforms; warnings raised while it builds become errors.

    albumentations only warns about an argument it does not know and goes on
    without it, so a misspelt one would silently disable an arm of an ablation.
    """

    def decorate(builder: Builder[Options]) -> Builder[Options]:
        @functools.wraps(builder)
        def build(*args: Options.args, **kwargs: Options.kwargs) -> list[Transform]:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                return builder(*args, **kwargs)

        return AUGMENTATIONS.register(name)(build)

    return decorate
