"""A model ready for use: from raw FLAIR slices to masks, in one folder without code.

The folder holds ``model.json`` (network, preprocessing, operating point, what the
training data looked like) and ``weights.safetensors``. Nothing in it is executed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from seglab.core.config import Model, Train
from seglab.core.documents import parse_json
from seglab.core.errors import UserError
from seglab.data.cache import Cache, CacheSettings, SingleVolume, prepare_single
from seglab.data.volume import Volume
from seglab.learning.checkpoint import load_weights, save_weights
from seglab.learning.device import Compute, choose_compute, has_fast_bf16
from seglab.learning.inference import Predictor
from seglab.learning.operating_point import OperatingPoint
from seglab.learning.reference import Reference
from seglab.models import build_model

RECIPE, WEIGHTS = "model.json", "weights.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """Everything about a model but its weights."""

    name: str
    model: Model
    context: int
    """Neighbouring slices on each side that are further channels."""
    precision: str
    settings: CacheSettings
    shape: tuple[int, int]
    """(h, w) of the slices the network was trained on."""
    mirror_axis: int
    upright: bool
    """Whether training slices lay with rows from top to bottom."""
    keeps_volume_scale: bool
    """Whether the slices of a training volume shared one intensity scale."""
    point: OperatingPoint
    reference: Reference | None = None
    run_id: str | None = None
    """The run that trained it; None where no run did."""
    modalities: tuple[str, ...] = ("flair",)
    target: str = "whole"

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.modalities) * (2 * self.context + 1)

    def to_json(self) -> dict[str, Any]:
        """As ``model.json`` holds it."""
        return {
            "format": FORMAT,
            **vars(self),
            "model": self.model.model_dump(mode="json"),
            "settings": self.settings.to_dict(),
            "point": self.point.to_dict(),
            "reference": self.reference.to_dict() if self.reference else None,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Recipe:
        """Read what :meth:`to_json` gave; raises KeyError, TypeError or ValueError if it is not."""
        values = dict(values)
        if values.pop("format") != FORMAT:
            raise ValueError("it is of another version of seglab")
        reference = values["reference"]
        typed = {
            "model": Model.model_validate(values["model"]),
            "settings": CacheSettings(
                **{key: value for key, value in values["settings"].items() if key != "channel"}
            ),
            "modalities": tuple(values.get("modalities", ("flair",))),
            "shape": (int(values["shape"][0]), int(values["shape"][1])),
            "point": OperatingPoint(**values["point"]),
            "reference": Reference.from_dict(reference) if reference else None,
        }
        return cls(**(values | typed))


@dataclass(frozen=True)
class Segmentation:
    """What the model makes of one volume."""

    probability: NDArray[np.float32]
    """(S, H, W) on the volume's own grid."""
    mask: NDArray[np.bool_]
    """(S, H, W)."""
    prepared: SingleVolume
    """What the network was shown."""


@dataclass(frozen=True)
class Segmenter:
    """A network with its recipe."""

    recipe: Recipe
    predictor: Predictor

    @cached_property
    def _predictor(self) -> Predictor:
        axis, mirror = self.recipe.mirror_axis, self.recipe.point.mirror
        return self.predictor.mirrored(axis) if mirror else self.predictor

    def segment(self, volume: Volume) -> Segmentation:
        """Segment one volume, whose slices lie as the training's did (``recipe.upright``).

        Args:
            volume: raw values of the model's modalities; its labels are not looked at.
        """
        recipe = self.recipe
        prepared = prepare_single(volume, recipe.settings, recipe.shape)
        # A cache of one patient: it has the arrays that inference reads.
        probability = self._predictor.native(cast(Cache, prepared), prepared.patient)
        mask = recipe.point.apply(probability, volume.slice_indices)
        return Segmentation(probability, mask, prepared)

    def predict(self, image: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Segment raw FLAIR slices (S, H, W) of one stack that lie as the training's did."""
        volume = as_volume(image, shared_scale=self.recipe.keeps_volume_scale)
        return self.segment(volume).mask

    def save(self, folder: Path) -> None:
        """Write the model's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.recipe.to_json(), indent=2)
        (folder / RECIPE).write_text(text + "\n", encoding="utf-8")
        save_weights(folder / WEIGHTS, self.predictor.network, {"model": self.recipe.name})


def load_segmenter(
    folder: Path, compute: Compute | None = None, weights: str = WEIGHTS
) -> Segmenter:
    """Load what :meth:`Segmenter.save` wrote; no code of the folder is run.

    Args:
        folder: of the model.
        compute: where to run it; None chooses.
        weights: name of the weights' file in the folder.

    Raises:
        UserError: the folder is not such a model, or is damaged.
    """
    return build_segmenter(read_recipe(folder), folder / weights, compute)


def read_recipe(folder: Path) -> Recipe:
    """Read the description of a model's folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / RECIPE
    try:
        return Recipe.from_json(parse_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model: it has no {RECIPE}") from None
    except (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is not a model's description: {error}") from None


def build_segmenter(recipe: Recipe, weights: Path, compute: Compute | None = None) -> Segmenter:
    """Build the network of a recipe and load its weights.

    Raises:
        UserError: not a safetensors file, or the weights of another network.
    """
    compute = compute or choose_compute(Train())
    precision = recipe.precision if has_fast_bf16(compute.device) else "fp32"
    compute = replace(compute, precision=precision)
    network = build_model(recipe.model, recipe.channels, recipe.shape, pretrained=False)
    load_weights(weights, network)
    return Segmenter(recipe, Predictor(network.to(compute.device), compute, recipe.context))


def as_volume(
    image: NDArray[np.float32],
    slice_indices: NDArray[np.int32] | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    name: str = "volume",
    *,
    shared_scale: bool = True,
    modalities: tuple[str, ...] = ("flair",),
) -> Volume:
    """Make a volume of which no truth is known."""
    images = np.ascontiguousarray(image, np.float32)
    images = images[None] if images.ndim == 3 else images
    count = images.shape[1]
    indices = np.arange(count, dtype=np.int32) if slice_indices is None else slice_indices
    return Volume(
        patient_id=name,
        images=images,
        modalities=modalities,
        labels=np.zeros(images.shape[1:], np.uint8),
        parts_known=False,
        slice_indices=indices,
        stack_size=int(indices[-1]) + 1,
        spacing_mm=spacing_mm,
        affine=None,
        shared_scales=(shared_scale,) * len(images),
        grade=None,
    )
