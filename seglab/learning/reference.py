"""What training images looked like, to notice an image that is unlike them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.data.appearance import SKULL, Figures, measure, median
from seglab.data.cache import Cache, CachedPatient
from seglab.data.labels import UNKNOWN_PART
from seglab.data.volume import Volume

UInt8 = NDArray[np.uint8]
Floats = NDArray[np.float64]

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
"""Of the brain's levels; the tails tell artefacts and bright lesions, the middle contrast."""
UNLIKE_SD = 5.0
"""Standard deviations over training patients beyond which a percentile is unlike them."""
SMALLEST_SD = 4.0
"""Levels; few or very similar training patients do not make everything else unlike them."""
SIZE_TOLERANCE = 0.1
"""Relative difference of frame or spacing that is not worth a word."""
LESION_SHARE, LESION_MARGIN = 5, 0.8
"""A predicted tumour that stands out less than 0.8 of the 5th percentile over training patients
is no tumour on FLAIR. Trained on 12 BraTS volumes this was 2.2 σ; of BraTS slices on which that
network marked anything, 21 of 22 patients on T1 were below, and 1 of 20 on FLAIR. It was set on
patients of the same set. T1 after contrast mostly passes; T1
with the skull on does too, and is told by its skull."""
EVERY = 3
"""Slices measured: every third."""


@dataclass(frozen=True)
class Reference:
    """Frames, spacings and intensities of the training patients."""

    patients: int
    frame: tuple[tuple[int, int], tuple[int, int]]
    """Smallest and largest (H, W)."""
    spacing_mm: tuple[tuple[float, ...], tuple[float, ...]] | None
    """Smallest and largest (slice, row, column); None where unknown."""
    levels_mean: tuple[float, ...]
    """Mean over patients of each of ``PERCENTILES`` of the brain's levels."""
    levels_sd: tuple[float, ...]
    lesion_z: float | None
    """How far the true tumour stands out in nearly every training patient, see
    :mod:`seglab.data.appearance`; None where unknown."""
    skull_fall: float | None
    """Median over training patients, see :mod:`seglab.data.appearance`; None where unknown."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Reference:
        """Read what :meth:`to_dict` gave, also through JSON."""
        spacing = values["spacing_mm"]
        return cls(
            patients=int(values["patients"]),
            frame=(tuple(values["frame"][0]), tuple(values["frame"][1])),
            spacing_mm=None if spacing is None else (tuple(spacing[0]), tuple(spacing[1])),
            levels_mean=tuple(values["levels_mean"]),
            levels_sd=tuple(values["levels_sd"]),
            lesion_z=values["lesion_z"],
            skull_fall=values["skull_fall"],
        )

    def faint(self, lesion_z: float) -> str | None:
        """Say that a predicted tumour stands out less than training tumours; None if it does."""
        if self.lesion_z is None or not lesion_z < LESION_MARGIN * self.lesion_z:
            return None
        return (
            f"looks like T1, not FLAIR: predicted tumour {lesion_z:+.1f} σ from the brain, "
            f"{100 - LESION_SHARE} % of training's above {self.lesion_z:+.1f}; or it is wrong"
        )

    def differences(self, volume: Volume, levels: UInt8) -> list[str]:
        """Say how a volume is unlike the training patients; empty where it is not.

        Args:
            volume: as it was read.
            levels: (S, h, w) its normalised slices.
        """
        found = [
            self._frame(volume),
            self._spacing(volume),
            self._skull(levels),
            self._intensity(levels),
        ]
        return [text for text in found if text is not None]

    def _frame(self, volume: Volume) -> str | None:
        frame = volume.images.shape[2:]
        if _within(frame, *self.frame):
            return None
        return f"frame is {_times(frame)}, in training {_span(*self.frame)} pixels"

    def _spacing(self, volume: Volume) -> str | None:
        if volume.spacing_mm is None or self.spacing_mm is None:
            return None
        if _within(volume.spacing_mm, *self.spacing_mm):
            return None
        return f"spacing is {_times(volume.spacing_mm)} mm, in training {_span(*self.spacing_mm)}"

    def _skull(self, levels: UInt8) -> str | None:
        here = measure(levels[None], ("flair",))["flair"].skull_fall
        if self.skull_fall is None or np.isnan(here):
            return None
        if (here > SKULL) == (self.skull_fall > SKULL):
            return None
        figures = f"{here:.2f} against {self.skull_fall:.2f}, skull from {SKULL:g}"
        if here > SKULL:
            return f"the skull is on, in training it was taken off: {figures}"
        return f"the skull was taken off, in training it was on: {figures}"

    def _intensity(self, levels: UInt8) -> str | None:
        here = level_percentiles(levels)
        if here is None:
            return None
        spread = np.maximum(self.levels_sd, SMALLEST_SD)
        distance = (here - np.array(self.levels_mean)) / spread
        worst = int(np.abs(distance).argmax())
        if abs(distance[worst]) <= UNLIKE_SD:
            return None
        return (
            f"intensities are unlike the training's: percentile {PERCENTILES[worst]} of the brain "
            f"at level {here[worst]:.0f} of 255, in training {self.levels_mean[worst]:.0f} ± "
            f"{self.levels_sd[worst]:.0f} ({distance[worst]:+.1f} σ)"
        )


def measure_reference(cache: Cache, patients: Sequence[str]) -> Reference:
    """Measure the training patients in their cache."""
    found = [cache.by_id[name] for name in patients]
    frames = np.array([patient.native_shape for patient in found])
    spacings = [patient.spacing_mm for patient in found if patient.spacing_mm is not None]
    levels = [level_percentiles(cache.images[0][patient.rows]) for patient in found]
    table = np.array([one for one in levels if one is not None])
    looks = [_look(cache, patient) for patient in found]
    known = [look.oedema_z for look in looks if np.isfinite(look.oedema_z)]
    skull = median([look.skull_fall for look in looks])
    return Reference(
        patients=len(found),
        frame=_range(frames, int),
        spacing_mm=_range(np.array(spacings), float) if spacings else None,
        levels_mean=tuple(table.mean(axis=0).tolist()),
        levels_sd=tuple(table.std(axis=0).tolist()),
        lesion_z=float(np.percentile(known, LESION_SHARE)) if known else None,
        skull_fall=None if np.isnan(skull) else skull,
    )


def _look(cache: Cache, patient: CachedPatient) -> Figures:
    levels = cache.images[0][patient.rows].astype(np.float32)
    truth = UNKNOWN_PART * cache.masks(patient.rows)
    return measure(levels[None], ("flair",), truth, mirror_axis=cache.mirror_axis)["flair"]


def level_percentiles(levels: UInt8) -> Floats | None:
    """``PERCENTILES`` of what is not background in (S, h, w); None where all is background."""
    some = np.asarray(levels[::EVERY])
    brain = some[some > 0]
    return np.percentile(brain, PERCENTILES) if len(brain) else None


def _range(table: NDArray[Any], kind: type) -> Any:
    lowest, highest = table.min(axis=0), table.max(axis=0)
    return tuple(map(kind, lowest)), tuple(map(kind, highest))


def _within(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> bool:
    return all(
        (1 - SIZE_TOLERANCE) * small <= value <= (1 + SIZE_TOLERANCE) * large
        for value, small, large in zip(values, low, high, strict=True)
    )


def _times(values: Sequence[float]) -> str:
    return "×".join(f"{value:.4g}" for value in values)


def _span(low: Sequence[float], high: Sequence[float]) -> str:
    same = all(a == b for a, b in zip(low, high, strict=True))
    return _times(low) if same else f"{_times(low)} to {_times(high)}"
