"""What training images looked like, to notice an image that is unlike them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seglab.data.cache import Cache, CachedPatient
from seglab.data.identity import SKULL, Figures, measure, median
from seglab.data.labels import UNKNOWN_PART
from seglab.data.volume import Volume

SIZE_TOLERANCE = 0.1  # relative difference of frame or spacing that is not told
LESION_SHARE, LESION_MARGIN = 5, 0.8
"""A predicted tumour that stands out less than 0.8 of the 5th percentile over training patients
is no tumour on FLAIR: of BraTS slices 21 of 22 patients on T1 were below, and 1 of 20 on FLAIR.
T1 after contrast mostly passes."""
QUANTILES = (0.02, 0.10, 0.25, 0.50, 0.75, 0.90, 0.98)
"""Of the brain's levels; the tails tell artefacts and bright lesions, the middle contrast."""
NARROWEST = 4.0
"""Grey levels: a smaller spread is taken for this one, so that training patients who happen
to be alike do not make every other patient an outlier."""
OUTSIDE = 2.0
"""Standard deviations. Of patients held out at random (200 times 30 % of 18 BraTS, 14 LGG and
24 phantom patients) 1 to 5 % lie beyond; of phantoms under an uncorrected surface coil, all."""
FEWEST_PATIENTS = 5  # fewer do not show a range
SAMPLE = 60  # training patients whose pixels are looked at, evenly over all

UInt8 = NDArray[np.uint8]
Levels = Mapping[str, UInt8]  # modality → (S, h, w), normalised; 0 is background
Extremes = Sequence[Sequence[float]]  # smallest and largest of each axis
Range = Mapping[str, Sequence[float]]
"""``centre`` and ``spread`` of ``QUANTILES`` over patients, in levels of 1 to 255."""


def learn_range(images: Iterable[UInt8]) -> Range | None:
    """Learn the range of training patients, each (S, h, w); None where they are too few."""
    rows = np.array([brain_quantiles(image) for image in images]).reshape(-1, len(QUANTILES))
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < FEWEST_PATIENTS:
        return None
    spread = np.maximum(rows.std(axis=0, ddof=1), NARROWEST)
    return {"centre": np.median(rows, axis=0).tolist(), "spread": spread.tolist()}


def brain_quantiles(image: UInt8) -> NDArray[np.float64]:
    """``QUANTILES`` of the levels that are not background; NaN where all is."""
    counts = np.bincount(image.ravel(), minlength=256)[1:]
    if not counts.any():
        return np.full(len(QUANTILES), np.nan)
    cumulated = np.cumsum(counts)
    ranks = np.ceil(np.array(QUANTILES) * cumulated[-1])
    return np.asarray(np.searchsorted(cumulated, ranks) + 1, np.float64)


@dataclass(frozen=True)
class Reference:
    """Frames, spacings and intensities of the training patients."""

    patients: int
    frame: Extremes  # of (H, W)
    spacing_mm: Extremes | None  # of (slice, row, column)
    lesion_z: float | None
    """How far the true tumour stands out in nearly every patient; :mod:`seglab.data.identity`."""
    skull_fall: float | None  # median over patients; see there
    intensities: Mapping[str, Range] = field(default_factory=dict)
    """Of each modality; none where the training patients were too few."""

    def faint(self, lesion_z: float, *, may_be_t1: bool) -> str | None:
        """Say that a predicted tumour stands out less than training tumours; None if it does."""
        if self.lesion_z is None or not lesion_z < LESION_MARGIN * self.lesion_z:
            return None
        return (
            f"{'perhaps T1, not FLAIR; ' * may_be_t1}check the mask: the tumour is "
            f"{lesion_z:+.1f} σ brighter than the brain, {100 - LESION_SHARE} % of training's are "
            f"more than {self.lesion_z:+.1f} σ"
        )

    def differences(self, volume: Volume, levels: Levels) -> list[str]:
        """Say how a volume, with the levels of the model's modalities, is unlike the training's."""
        frame = volume.images.shape[2:]
        found = [
            _size("frame", frame, self.frame, "pixels"),
            _size("spacing", volume.spacing_mm, self.spacing_mm, "mm"),
            self._skull(next(iter(levels.values()))),
        ]
        found += [_brightness(name, levels[name], one) for name, one in self.intensities.items()]
        return [text for text in found if text is not None]

    def _skull(self, levels: UInt8) -> str | None:
        here = measure(levels[None], ("flair",))["flair"].skull_fall
        usual = here if self.skull_fall is None else self.skull_fall
        if np.isnan(here) or (here > SKULL) == (usual > SKULL):
            return None
        told = "is on, in training it was taken off", "was taken off, in training it was on"
        figures = f"by {here:.2f} of the brain's, in training by {usual:.2f}"
        fall = f"brightness falls from scalp to bone {figures}; with a skull by more than {SKULL:g}"
        return f"the skull {told[int(here <= SKULL)]}: {fall}"


def measure_reference(cache: Cache, patients: Sequence[str]) -> Reference:
    """Measure the training patients in their cache."""

    def figures(patient: CachedPatient) -> dict[str, Figures]:
        levels = np.stack([images[patient.rows] for images in cache.images])
        truth = UNKNOWN_PART * cache.masks(patient.rows)
        return measure(levels, cache.modalities, truth, mirror_axis=cache.mirror_axis)

    found = [cache.by_id[name] for name in patients]
    some = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, SAMPLE).astype(int))]
    ranges = {
        name: learn_range(images[patient.rows] for patient in some)
        for name, images in zip(cache.modalities, cache.images, strict=True)
    }
    measured = [figures(patient) for patient in some]
    is_flair = cache.target == "whole" and "flair" in cache.modalities
    known = [one["flair"].oedema_z for one in measured] if is_flair else []
    known = [z for z in known if np.isfinite(z)]
    skull = median([one[cache.modalities[0]].skull_fall for one in measured])
    return Reference(
        patients=len(found),
        frame=_extremes([patient.native_shape for patient in found]) or [],
        spacing_mm=_extremes([one.spacing_mm for one in found if one.spacing_mm is not None]),
        intensities={name: one for name, one in ranges.items() if one is not None},
        lesion_z=float(np.percentile(known, LESION_SHARE)) if known else None,
        skull_fall=None if np.isnan(skull) else skull,
    )


def _extremes(rows: Sequence[Sequence[float]]) -> Extremes | None:
    return [np.min(rows, axis=0).tolist(), np.max(rows, axis=0).tolist()] if rows else None


def _brightness(name: str, image: UInt8, usual: Range) -> str | None:
    here, centre = brain_quantiles(image), usual["centre"]
    away = np.nan_to_num((here - centre) / np.array(usual["spread"]))
    excess = float(np.sqrt(np.mean(away**2)))
    if excess <= OUTSIDE:
        return None
    at = int(np.abs(away).argmax())
    return (
        f"the brightness of {name} is {excess:.1f} standard deviations from training's: percentile "
        f"{100 * QUANTILES[at]:g} of the brain at level {here[at]:.0f} of 255, in training "
        f"{centre[at]:.0f} ± {usual['spread'][at]:.0f}"
    )


def _size(what: str, here: Sequence[float] | None, usual: Extremes | None, unit: str) -> str | None:
    if here is None or usual is None:
        return None
    low, high = np.array(usual) * [[1 - SIZE_TOLERANCE], [1 + SIZE_TOLERANCE]]
    if np.all((low <= here) & (here <= high)):
        return None
    span = " to ".join(dict.fromkeys(_times(end) for end in usual))
    return f"{what} is {_times(here)} {unit}, in training {span}"


def _times(values: Sequence[float]) -> str:
    return "×".join(f"{value:.4g}" for value in values)
