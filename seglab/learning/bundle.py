"""The exported model: from raw slices to masks, in one folder without code.

``model.json`` describes network, input, preprocessing, operating point and training data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from seglab.core.config import CHANNELS, Model, RunConfig, Train
from seglab.core.errors import UserError
from seglab.data.cache import Cache, CachedPatient, CacheSettings
from seglab.data.pack import SingleVolume
from seglab.data.volume import Volume
from seglab.learning.checkpoint import load_weights, save_weights
from seglab.learning.device import Compute, choose_compute, fast_precision
from seglab.learning.inference import Predictor
from seglab.learning.operating_point import OperatingPoint
from seglab.learning.reference import Reference, measure_reference
from seglab.models.build import Ensemble, build_model

CARD, WEIGHTS = "model.json", "weights.safetensors"
FORMAT = 2
AXES = {"S": "the top of the head", "I": "the neck", "P": "the back", "L": "the left"}
NOT_MEDICAL = "research only: not a medical device, and no mask may guide a treatment"


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model but its weights."""

    name: str
    model: Model
    modalities: tuple[str, ...]  # of the input, in the order of the channels
    target: str  # what the mask marks, see ``data.target``
    context: int  # neighbouring slices on each side that are further channels
    precision: str
    settings: CacheSettings
    shape: tuple[int, int]  # (h, w) of the slices the network was trained on
    mirror_axis: int
    upright: bool  # whether training slices lay with rows from top to bottom
    shared_scale: bool  # whether the slices of a training volume shared one intensity scale
    point: OperatingPoint
    reference: Reference | None = None
    run_id: str | None = None  # the run that trained it; None where no run did
    notice: str = ""  # what must be said of the training data: that they are synthetic
    members: tuple[Model, ...] = ()
    """Networks of an ensemble, whose probabilities are averaged; ``model`` is the first."""
    range_modality: str | None = None
    """Modality whose range of intensities all are clipped to; None takes each one's own."""
    window: str | None = None
    """Modality whose brain placed the training's windows; None where that is not known."""
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Further planes whose probabilities are averaged, with (h, w) of their slices."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels of the network's input in their order, as ``flair-1, flair, flair+1, t1, …``."""
        offsets = range(-self.context, self.context + 1)
        return tuple(
            f"{name}{step:+d}" if step else name for name in self.modalities for step in offsets
        )

    @property
    def axes(self) -> str:
        """Where slices, rows and columns of (S, H, W) run to in the patient, by :data:`AXES`."""
        return self.settings.axes(self.upright)[1]

    def interface(self) -> dict[str, Any]:
        """What :meth:`ModelBundle.predict` takes and gives, in words, for a registered model."""
        several, settings = len(self.modalities) > 1, self.settings
        steps = {key: value for key, value in vars(self.point).items() if key != "threshold"}
        runs_to = ", ".join(AXES[axis] for axis in self.axes)
        return {
            "input": f"float32 ({'M, ' * several}S, H, W), raw slices, ascending, without gaps",
            "modalities": list(self.modalities),
            "planes": [self.settings.plane, *self.shapes],
            "axes": f"{self.axes}: slices, rows and columns run to {runs_to}",
            "levels": f"as stored; normalised inside ({settings.normalise}, "
            f"{settings.normalise_scope})",
            "output": f"uint8 (S, H, W), 1 where there is {self.target} tumour",
            "threshold": self.point.threshold,
            "steps": steps,
            "use": NOT_MEDICAL,
            "notice": self.notice,
        }

    def to_json(self) -> dict[str, Any]:
        """As ``model.json`` holds it."""
        models = {
            "model": self.model.model_dump(mode="json"),
            "members": [one.model_dump(mode="json") for one in self.members],
        }
        return {"format": FORMAT, **asdict(self), **models}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelCard:
        """Read what :meth:`to_json` gave; raises KeyError, TypeError or ValueError if it is not."""
        version = values["format"]
        if version == 1:
            values = _from_format_1(values)
        elif version != FORMAT:
            raise ValueError(f"its format is {version}; this version of seglab reads 1 to {FORMAT}")
        return TypeAdapter(cls).validate_python(values)


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    """Bring a description of the time of one channel and one merged mask to today's form."""
    settings = dict(values["settings"])
    source = "lgg-tif" if values["upright"] else "brats-h5"  # slices of others are not upright
    return values | {
        "modalities": [CHANNELS[source][settings.pop("channel")]],
        "settings": settings,
        "target": "whole",
        "shared_scale": values["keeps_volume_scale"],
        "range_modality": "flair",  # one range served every channel
    }


def make_card(
    config: RunConfig,
    cache: Cache,
    train: Sequence[str],
    precision: str,
    run_id: str,
    point: OperatingPoint | None = None,
) -> ModelCard:
    """Describe the model that a run trained on the patients ``train``, who are measured.

    ``point`` None takes the config's threshold, without further steps.
    """
    scales = (cache.scale[0, cache.by_id[name].rows] for name in train)
    of_cache = ("modalities", "target", "settings", "shape", "mirror_axis", "upright")
    return ModelCard(
        **{name: getattr(cache, name) for name in of_cache},
        name=config.name,
        model=config.model,
        context=config.data.context,
        precision=precision,
        shared_scale=bool(np.median([not np.ptp(scale, axis=0).any() for scale in scales])),
        point=point or OperatingPoint(threshold=config.evaluation.threshold),
        reference=measure_reference(cache, train),
        run_id=run_id,
        notice=cache.notice,
        window=cache.reference,
        shapes={one.settings.plane: one.shape for one in cache.further},
    )


class Segmentation(NamedTuple):
    """What the model makes of one volume, on its native grid (S, H, W)."""

    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]  # at the operating point
    disagreement: NDArray[np.float32] | None  # SD of an ensemble's probabilities


@dataclass(frozen=True)
class ModelBundle:
    """A network with its card."""

    card: ModelCard
    predictor: Predictor  # without mirroring, whatever the operating point asks for

    def segment(self, volume: Volume) -> Segmentation:
        """Segment one volume, whose slices lie as the training's did (``card.upright``).

        It holds raw values of the model's modalities, in any order; that which places the window
        is used where it is there too. Raises UserError where a modality is missing, or the volume
        has no slices of the model's plane.
        """
        prepared = self.prepare(volume)
        return self.native(prepared, prepared.patient)

    def native(self, cache: Cache, patient: CachedPatient) -> Segmentation:
        """Predict a patient of a cache."""
        point = self.card.point
        predictor = replace(self.predictor, mirror=point.mirror)
        probability, spread = predictor.with_disagreement(cache, patient)
        return Segmentation(probability, point.apply(probability, patient.slice_indices), spread)

    def prepare(self, volume: Volume) -> SingleVolume:
        """Normalise, crop and scale a volume as the training's were; see :meth:`segment`."""
        card, given = self.card, volume.modalities
        missing = [name for name in card.modalities if name not in given]
        if missing:
            needs = f"{volume.patient_id}: the model needs {', '.join(card.modalities)}"
            found = f"{', '.join(missing)} is missing (found: {', '.join(given)})"
            raise UserError(f"{needs}; {found}")
        beside = [name for name in given if name == card.window and name not in card.modalities]
        chosen = volume.of((*card.modalities, *beside))
        if card.range_modality:
            chosen = replace(chosen, modalities=(card.range_modality,) * len(chosen.modalities))
        planes = {} if volume.why_one_plane else card.shapes
        first, *further = (
            self._in_plane(chosen, plane, shape)
            for plane, shape in {card.settings.plane: card.shape, **planes}.items()
        )
        first.further = tuple(further)
        return first

    def _in_plane(self, volume: Volume, plane: str, shape: tuple[int, int]) -> SingleVolume:
        card, settings = self.card, replace(self.card.settings, plane=plane)
        prepared = SingleVolume(volume, settings, shape, len(card.modalities), card.upright)
        prepared.mirror_axis = card.mirror_axis
        prepared.target, prepared.modalities = card.target, card.modalities
        return prepared

    def predict(self, images: NDArray[Any]) -> NDArray[np.bool_]:
        """Segment raw slices of one stack, ascending, without gaps, lying as in training.

        ``images`` are (S, H, W) for a model of one modality, else (M, S, H, W) in the order of
        ``card.modalities``; a UserError for another shape, or values that are not finite.
        """
        names = self.card.modalities
        stacks = np.asarray(images, np.float32)
        if stacks.ndim == 3 and len(names) == 1:
            stacks = stacks[None]
        if stacks.ndim != 4 or len(stacks) != len(names) or 0 in stacks.shape:
            number = f"{len(names)}, " if len(names) > 1 else ""
            axes = f"({number}slices, rows, columns) of {', '.join(names)} in this order"
            raise UserError(f"expected raw images {axes}; got the shape {np.shape(images)}")
        for name, one in zip(names, stacks, strict=True):
            if not np.isfinite(one).all():
                raise UserError(f"NaN or infinite values in the images of {name}")
        return self.segment(as_volume(stacks, names, shared_scale=self.card.shared_scale)).mask

    def save(self, folder: Path) -> None:
        """Write the model's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.card.to_json(), indent=2)
        (folder / CARD).write_text(text + "\n", encoding="utf-8")
        save_weights(folder / WEIGHTS, self.predictor.network, {"model": self.card.name})


def load_bundle(
    folder: Path, compute: Compute | None = None, weights: str = WEIGHTS
) -> ModelBundle:
    """Load what :meth:`ModelBundle.save` wrote; no code of the folder is run.

    ``compute`` None chooses. Raises UserError where the folder is no such model, is damaged, or its
    file ``weights`` is of another network.
    """
    card = read_card(folder)
    compute = compute or choose_compute(Train())
    precision = "fp32" if card.precision == "fp32" else fast_precision(compute.device)
    compute = replace(compute, precision=precision)
    networks = [
        build_model(model, len(card.channels), card.shape, pretrained=False)
        for model in card.members or (card.model,)
    ]
    network = Ensemble(networks) if card.members else networks[0]
    load_weights(folder / weights, network)
    return ModelBundle(card, Predictor(network.to(compute.device), compute, card.context))


def read_card(folder: Path) -> ModelCard:
    """Read the description of a model's folder; a UserError where it is absent or damaged."""
    path = folder / CARD
    try:
        return ModelCard.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model: it has no {CARD}") from None
    except (OSError, LookupError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path} is not a model's description: {told}") from None


def as_volume(
    images: NDArray[np.float32], modalities: Sequence[str], *, shared_scale: bool
) -> Volume:
    """Make a volume of arrays (M, S, H, W) of which nothing else is known."""
    count = images.shape[1]
    return Volume(
        patient_id="volume",
        images=images,
        modalities=tuple(modalities),
        labels=np.zeros(images.shape[1:], np.uint8),
        slice_indices=np.arange(count, dtype=np.int32),
        stack_size=count,
        shared_scales=(shared_scale,) * len(images),
        grade=None,
    )
