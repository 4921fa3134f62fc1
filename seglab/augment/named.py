"""Transforms of albumentations, named in a YAML and tried before anything is trained."""

from __future__ import annotations

import inspect
import os
import random
import warnings
from collections.abc import Mapping
from copy import copy
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from seglab.augment.transform import Frame, OnHost, UInt8
from seglab.core.errors import nearest
from seglab.core.registry import AUGMENTATIONS

# albumentations asks the network for a newer version of itself when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

Arguments = dict[str, Any]


def build_named(name: str, arguments: Mapping[str, Any]) -> OnHost:
    """Build a transform of uint8 slices from the name of its class in albumentations.

    Raises ValueError for an unknown name or argument, and for a transform that is not for
    slices: it changes their size or type, takes colour only, or needs more than image and mask.
    """
    import albumentations as A

    bases = (A.DualTransform, A.ImageOnlyTransform)
    known = {n: k for n, k in vars(A).items() if inspect.isclass(k) and issubclass(k, bases)}
    if name not in known:
        raise ValueError(f"albumentations has no transform '{name}'{nearest(name, list(known))}")
    kind = known[name]
    allowed = inspect.signature(kind).parameters.keys()
    for key in arguments.keys() - allowed:
        listed = ", ".join(allowed)
        raise ValueError(f"{name} has no argument '{key}'{nearest(key, allowed)}; it has {listed}")
    arguments = {key: _tuples(value) for key, value in arguments.items()}
    try:
        # A warning is an argument without effect, which would disable an arm.
        with warnings.catch_warnings(action="error"):
            _try(_on_slices(kind(**{**arguments, "p": 1.0})))
            return _on_slices(kind(**arguments))
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name}: {told[:200]}") from None


def _on_slices(transform: Any) -> OnHost:
    """Let a stream decide; where only grey levels change, the background stays 0."""

    def apply(image: UInt8, mask: UInt8, stream: np.random.Generator) -> tuple[UInt8, UInt8]:
        one = copy(transform)  # holds the stream in use, and threads share ``transform``
        one.set_random_state(stream, random.Random(int(stream.integers(2**63))))
        found = one(image=image, mask=mask)
        changed: UInt8 = found["image"]
        if "mask" not in one.available_keys:
            changed = np.maximum(changed.reshape(image.shape), 1) * (image > 0)
        return changed, found["mask"]

    return apply


def _try(transform: OnHost) -> None:
    for draw, channels in enumerate((1, 2, 3, 5) * 3):  # some change the size only at times
        image = np.random.default_rng(0).integers(1, 256, (61, 83, channels), np.uint8)
        mask = np.zeros(image.shape[:2], np.uint8)
        image[:5], mask[20:30, 20:35] = 0, 1
        new_image, new_mask = transform(image, mask, np.random.default_rng(draw))
        if new_image.shape != image.shape or new_mask.shape != mask.shape:
            raise ValueError("it changes the size of a slice")
        if new_image.dtype != np.uint8 or new_mask.max(initial=0) > 1:
            raise ValueError("it returns no uint8 image with a mask of 0 and 1")


def _tuples(value: Any) -> Any:
    """A YAML has lists where albumentations expects tuples."""
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def _with_arguments(given: Any) -> Any:
    """Allow ``Name`` and ``Name:`` for a transform without arguments."""
    if isinstance(given, dict):
        return {key: {} if value is None else value for key, value in given.items()}
    return {given: {}} if isinstance(given, str) else given


def _build_once(given: dict[str, Arguments]) -> dict[str, Arguments]:
    for name, arguments in given.items():
        build_named(name, arguments)
    return given


One = Annotated[
    dict[str, Arguments],
    Field(min_length=1, max_length=1),
    BeforeValidator(_with_arguments),
    AfterValidator(_build_once),
]


@AUGMENTATIONS.register("albumentations")
def albumentations(
    frame: Frame, *, transforms: Annotated[list[One], Field(min_length=1)]
) -> list[OnHost]:
    """Transforms of albumentations by name, e.g. [{GridDistortion: {num_steps: 5, p: 0.3}}]."""
    return [build_named(name, given) for one in transforms for name, given in one.items()]


AUGMENTATIONS.retire("grid", "name albumentations' GridDistortion in augment.transforms")
