"""From tissue to signal: sequences, coil, resolution, noise.

The signal of each tissue follows from its proton density and relaxation times by
the spin-echo and inversion-recovery equations (e.g. Bernstein, King & Zhou,
Handbook of MRI Pulse Sequences, 2004), so the four contrasts agree with each
other as they do in a patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from seglab.data.phantom.anatomy import Points
from seglab.data.phantom.grid import Array, Grid, SmoothField

CHANNELS = ("FLAIR", "T1", "T1ce", "T2")
"""Order of the channels in the Kaggle files."""


class Tissue(NamedTuple):
    """Proton density relative to water and relaxation times in milliseconds at 3 T."""

    density: float
    t1_ms: float
    t2_ms: float
    gadolinium_mm: float = 0.0
    """Contrast agent taken up, in mmol/l."""


RELAXIVITY = 4.5
"""Shortening of T1 by gadolinium, in 1/(s·mmol/l)."""

TISSUES: Mapping[str, Tissue] = {
    "white": Tissue(0.70, 850, 75),
    "grey": Tissue(0.79, 1380, 90, 0.01),
    "nuclei": Tissue(0.78, 1150, 80, 0.01),
    "csf": Tissue(1.00, 4200, 1800),
    "oedema": Tissue(0.87, 1500, 140, 0.01),
    "solid": Tissue(0.86, 1650, 150, 0.02),
    "cyst": Tissue(0.97, 3000, 550),
    "enhancing": Tissue(0.85, 1350, 118, 0.35),
    "vessel": Tissue(0.35, 1500, 60, 0.80),
}


@dataclass(frozen=True)
class Scanner:
    """Protocol and hardware of one examination."""

    field_t1: float
    """T1 relative to 3 T; shorter in a weaker field."""
    flair_ms: tuple[float, float, float]
    """Repetition, echo and inversion time."""
    t1_ms: tuple[float, float]
    """Repetition and echo time, with and without contrast agent."""
    t2_ms: tuple[float, float]
    gain: float
    """Signal units per white-matter FLAIR signal."""
    noise: float
    """Standard deviation of each quadrature channel over the white-matter signal."""
    blur_mm: tuple[float, float, float, float]
    """In-plane point spread (standard deviation) of each channel."""
    thick_mm: tuple[float, float, float, float]
    """Through-plane point spread of each channel."""
    bias: float
    """Strength of the coil's inhomogeneity, as a standard deviation of its logarithm."""
    coil: SmoothField
    hot_spot: float
    """Factor by which an uncorrected surface coil brightens one side; 1 is none."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Scanner:
        """Draw an examination."""
        t1_scale = float(rng.choice([0.85, 1.0]))
        repetition, echo = rng.uniform((8000, 95), (10500, 140))
        null = _nulling_time(repetition, TISSUES["csf"].t1_ms * t1_scale)
        thick = rng.random(4) < 0.3
        return cls(
            field_t1=t1_scale,
            flair_ms=(float(repetition), float(echo), float(null * rng.uniform(0.93, 1.02))),
            t1_ms=(float(rng.uniform(450, 700)), float(rng.uniform(8, 15))),
            t2_ms=(float(rng.uniform(3500, 6500)), float(rng.uniform(80, 115))),
            gain=float(rng.uniform(120, 320)),
            noise=float(rng.uniform(0.02, 0.08)),
            blur_mm=_four(rng.uniform(0.3, 1.0, 4)),
            thick_mm=_four(np.where(thick, rng.uniform(1.2, 2.4, 4), 0.4)),
            bias=float(rng.uniform(0.03, 0.14)),
            coil=SmoothField.draw(rng, 75.0),
            hot_spot=1.0,
        )

    def signals(self, tissue: Tissue) -> tuple[float, float, float, float]:
        """Noise-free signal of a pure voxel of ``tissue`` in each of ``CHANNELS``."""
        t1 = tissue.t1_ms * self.field_t1
        enhanced = 1 / (1 / t1 + tissue.gadolinium_mm * RELAXIVITY / 1000)
        return (
            tissue.density * _inversion_recovery(t1, tissue.t2_ms, *self.flair_ms),
            tissue.density * _spin_echo(t1, tissue.t2_ms, *self.t1_ms),
            tissue.density * _spin_echo(enhanced, tissue.t2_ms, *self.t1_ms),
            tissue.density * _spin_echo(t1, tissue.t2_ms, *self.t2_ms),
        )

    def flair_contrast(self, name: str) -> float:
        """FLAIR signal of a tissue over that of white matter, minus 1."""
        return self.signals(TISSUES[name])[0] / self.signals(TISSUES["white"])[0] - 1

    def acquire(
        self,
        rng: np.random.Generator,
        points: Points,
        shares: Mapping[str, Array],
        inflow: Array,
    ) -> Array:
        """Image a head.

        Args:
            rng: source of the noise.
            points: the brain's voxels.
            shares: for each of ``TISSUES`` the share (n,) of each voxel; they add up to 1.
            inflow: share (n,) of fluid that escaped the inversion of FLAIR.

        Returns:
            (S, H, W, 4) float32, whole numbers ≥ 0 as scanners store them; 0 outside the brain.
        """
        table = {name: self.signals(TISSUES[name]) for name in shares}
        coil = self._coil_gain(points)
        image = np.zeros((*points.grid.shape, len(CHANNELS)), np.float32)
        for channel in range(len(CHANNELS)):
            signal = sum(np.float32(table[name][channel]) * share for name, share in shares.items())
            if CHANNELS[channel] == "FLAIR":
                signal = signal + inflow * np.float32(np.exp(-self.flair_ms[1] / 1800))
            white = self.signals(TISSUES["white"])[channel]
            window = self._spread(points.scatter(signal * coil), points, channel)
            seen = _rician(rng, window[points.where], self.noise * white)
            stored = np.rint(seen * np.float32(self.gain / white)).clip(1, None)
            image[(*points.grid.window, channel)] = points.scatter(stored)
        return image

    def _coil_gain(self, points: Points) -> Array:
        gain = np.exp(np.float32(self.bias) * points.of(self.coil))
        if self.hot_spot != 1:
            distance = np.sqrt(points.x**2 + (points.y - 85) ** 2 + (points.z - 80) ** 2)
            gain = gain * (1 + np.float32(self.hot_spot - 1) * np.exp(-distance / np.float32(28)))
        return np.asarray(gain, np.float32)

    def _spread(self, window: Array, points: Points, channel: int) -> Array:
        """Blur by the channel's point spread; the brain's edge keeps its level."""
        inside = points.where.astype(np.float32)
        level = _blur(inside, points.grid, self.blur_mm[channel], self.thick_mm[channel])
        blurred = _blur(window, points.grid, self.blur_mm[channel], self.thick_mm[channel])
        return np.asarray(blurred / np.maximum(level, np.float32(1e-3)), np.float32)


def _inversion_recovery(t1: float, t2: float, tr: float, te: float, ti: float) -> float:
    """Magnitude of an inversion-recovery spin echo of unit density."""
    recovered = 1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)
    return float(abs(recovered) * np.exp(-te / t2))


def _spin_echo(t1: float, t2: float, tr: float, te: float) -> float:
    """Spin echo of unit density."""
    return float((1 - np.exp(-tr / t1)) * np.exp(-te / t2))


def _nulling_time(tr: float, t1: float) -> float:
    """Inversion time that nulls a tissue of relaxation time ``t1``."""
    return float(t1 * np.log(2 / (1 + np.exp(-tr / t1))))


def _rician(rng: np.random.Generator, signal: Array, sigma: float) -> Array:
    """Magnitude of a complex signal with Gaussian noise in both quadratures."""
    real = signal + np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    magnitude: Array = np.hypot(real, imaginary)
    return magnitude


def _blur(window: Array, grid: Grid, inplane_mm: float, through_mm: float) -> Array:
    dz, dx, dy = grid.voxel_mm
    blurred = np.empty_like(window)
    for source, target in zip(window, blurred, strict=True):
        cv2.GaussianBlur(source, (0, 0), inplane_mm / dy, target, inplane_mm / dx)
    sigma = through_mm / dz
    if sigma < 0.3:  # a narrower kernel changes neighbours by less than one per cent
        return blurred
    return np.asarray(ndimage.gaussian_filter1d(blurred, sigma, axis=0, truncate=3.0), np.float32)


def _four(values: np.ndarray) -> tuple[float, float, float, float]:
    a, b, c, d = (float(value) for value in values)
    return a, b, c, d
