"""Transforms of albumentations, named in a YAML and proved before anything is trained."""

from __future__ import annotations

import inspect
import os
import random
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field

from seglab.core.errors import nearest

# albumentations asks the network for a newer version of itself when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

PROBES = ((64, 48, 1), (61, 83, 2), (40, 40, 3), (64, 48, 5))
"""(H, W, C) of slices that a transform is tried on: any size, any number of channels."""
DRAWS = 4
"""Of each, as some transforms change the size only at times."""

UInt8 = NDArray[np.uint8]
Arguments = dict[str, Any]


class Named:
    """One transform of albumentations on uint8 slices; the background stays 0.

    Args:
        name: of its class.
        arguments: of the class.

    Raises:
        ValueError: no such transform or argument, a value that it does not take, or a
            transform that is not for slices: it changes their size or type, takes colour
            pictures only, or needs more than an image and its mask.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.name = name
        kind = _find(name, arguments)
        # A warning is an argument without effect, which would disable an arm.
        with _as_value_error(name), warnings.catch_warnings(action="error"):
            self._transform = kind(**{key: _tuples(value) for key, value in arguments.items()})
            self._changes_image_only = "mask" not in self._transform.available_keys
            self._threads = threading.local()
            self._prove()

    def __call__(
        self, image: UInt8, mask: UInt8, stream: np.random.Generator
    ) -> tuple[UInt8, UInt8]:
        """Change an image (H,W,C) and its mask (H,W) by the stream's draws, or leave both."""
        if not hasattr(self._threads, "transform"):  # it holds the state of the stream in use
            self._threads.transform = deepcopy(self._transform)
        transform = self._threads.transform
        transform.set_random_state(stream, random.Random(int(stream.integers(2**63))))
        found = transform(image=image, mask=mask)
        changed: UInt8 = found["image"]
        if self._changes_image_only:
            changed = np.maximum(changed.reshape(image.shape), 1) * (image > 0)
        return changed, found["mask"]

    def _prove(self) -> None:
        probability, self._transform.p = self._transform.p, 1.0
        for height, width, channels in PROBES:
            image = np.random.default_rng(0).integers(1, 256, (height, width, channels), np.uint8)
            mask = np.zeros((height, width), np.uint8)
            image[:5], mask[20:30, 20:35] = 0, 1
            for draw in range(DRAWS):
                with _as_value_error(f"tried on {channels} grey channel(s) with their mask"):
                    found = self(image, mask, np.random.default_rng(draw))
                if found[0].shape != image.shape or found[1].shape != mask.shape:
                    raise ValueError("it changes the size of a slice")
                if found[0].dtype != np.uint8 or found[1].max(initial=0) > 1:
                    raise ValueError("it returns no uint8 image with a mask of 0 and 1")
        self._transform.p = probability
        self._threads = threading.local()


def _find(name: str, arguments: Mapping[str, Any]) -> Any:
    import albumentations as A

    bases = (A.DualTransform, A.ImageOnlyTransform)
    known = {key for key, kind in vars(A).items() if inspect.isclass(kind)}
    known = {key for key in known if issubclass(getattr(A, key), bases)}
    if name not in known:
        raise ValueError(f"albumentations has no transform '{name}'{nearest(name, known)}")
    allowed = inspect.signature(getattr(A, name)).parameters.keys()
    for key in arguments.keys() - allowed:
        listed = ", ".join(allowed)
        raise ValueError(f"{name} has no argument '{key}'{nearest(key, allowed)}; it has {listed}")
    return getattr(A, name)


@contextmanager
def _as_value_error(what: str) -> Iterator[None]:
    """Say in one line what went wrong in albumentations; pydantic takes three for it."""
    try:
        yield
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{what}: {' '.join(line.strip() for line in lines[:3])}") from None


def _tuples(value: Any) -> Any:
    """A YAML has lists where albumentations expects tuples."""
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def _with_arguments(given: Any) -> Any:
    """Allow ``Name`` and ``Name:`` for a transform without arguments."""
    if isinstance(given, dict):
        return {key: {} if value is None else value for key, value in given.items()}
    return {given: {}} if isinstance(given, str) else given


def build_named(transforms: list[dict[str, Arguments]]) -> list[Named]:
    """Build the transforms of a list, in its order; raises ValueError as :class:`Named` does."""
    return [Named(name, given) for one in transforms for name, given in one.items()]


def _proved(transforms: list[dict[str, Arguments]]) -> list[dict[str, Arguments]]:
    build_named(transforms)
    return transforms


One = Annotated[
    dict[str, Arguments], Field(min_length=1, max_length=1), BeforeValidator(_with_arguments)
]
NamedTransforms = Annotated[list[One], Field(min_length=1), AfterValidator(_proved)]
"""As a YAML lists them: ``[{GridDistortion: {num_steps: 5, p: 0.3}}, VerticalFlip]``."""
