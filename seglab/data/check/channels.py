"""The identity of the chosen channel, judged over all patients and against the other channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seglab.data.check.probe import Probe
from seglab.data.identity import (
    CSF_BRIGHT,
    LESION_BRIGHT,
    Appearance,
    median,
    median_appearance,
)

ENHANCES = 1.5
"""``enhancement_z`` of T1ce is above this: medians of 41 BraTS slices with both parts are 3.1 on
T1ce, 0.3 on FLAIR and T1, −0.5 on T2."""
CLEARLY_BRIGHTER = 0.5
"""Another channel must beat the chosen one's tumour by this much, in σ, to be preferred."""


@dataclass(frozen=True)
class ChannelEvidence:
    """Medians over patients for one channel; NaN where unknown."""

    channel: int
    name: str
    """What the data set's documentation calls it."""
    looks_like: str
    """``FLAIR``, ``T1``, ``T1ce``, ``T2`` or ``unknown``, from the figures alone."""
    lesion_z: float
    csf_brightness: float
    csf_z: float
    enhancement_z: float
    patients: int
    """How many were measured."""


@dataclass(frozen=True)
class Identity:
    """Whether the chosen channel is FLAIR, and the evidence."""

    ok: bool
    """False also where nothing could be measured: there is no evidence then."""
    channel: int
    reason: str
    """One line with the figure that decided."""
    channels: tuple[ChannelEvidence, ...]

    @property
    def verdict(self) -> str:
        """``ok`` in a word: also where nothing could be measured."""
        if self.ok:
            return "ok"
        return "WRONG CHANNEL" if self.channels[self.channel].patients else "UNKNOWN"

    def to_json(self) -> dict[str, Any]:
        """``ok``, ``channel`` and ``evidence``; figures that are not known are None."""
        evidence = {
            "reason": self.reason,
            "limits": {"lesion_z_above": LESION_BRIGHT, "csf_brightness_below": CSF_BRIGHT},
            "channels": [_without_nan(asdict(one)) for one in self.channels],
        }
        return {"ok": self.ok, "channel": self.channel, "evidence": evidence}


def identify(probes: Sequence[Sequence[Probe]], names: tuple[str, ...], channel: int) -> Identity:
    """Judge ``channel`` from the probes of each patient.

    Args:
        probes: the measured slices of each patient.
        names: of the channels.
        channel: the chosen one.
    """
    seen = [patient for patient in probes if patient]
    found = [_median_over_patients(seen, index) for index in range(len(names))]
    csf = _csf_of(seen, found)
    enhancement = [_enhancement_of(seen, index) for index in range(len(names))]
    channels = tuple(
        ChannelEvidence(
            index,
            names[index],
            _looks_like(one, enhancement[index]),
            one.lesion_z,
            one.csf_brightness,
            csf[index],
            enhancement[index],
            sum(_known(patient, index) for patient in seen),
        )
        for index, one in enumerate(found)
    )
    ok, reason = _judge(channels, channel)
    return Identity(ok, channel, reason, channels)


def _median_over_patients(patients: Sequence[Sequence[Probe]], channel: int) -> Appearance:
    return median_appearance(
        [median_appearance([one.appearances[channel] for one in patient]) for patient in patients]
    )


def _known(patient: Sequence[Probe], channel: int) -> bool:
    return any(not math.isnan(one.appearances[channel].csf_brightness) for one in patient)


def _enhancement_of(patients: Sequence[Sequence[Probe]], channel: int) -> float:
    return median(
        [median([float(one.enhancement_z[channel]) for one in patient]) for patient in patients]
    )


def _csf_of(patients: Sequence[Sequence[Probe]], found: Sequence[Appearance]) -> list[float]:
    """Brightness of CSF on each channel, once the T2-like and the T1-like one are known."""
    known = [i for i, one in enumerate(found) if not math.isnan(one.csf_brightness)]
    bright = max(known, key=lambda i: found[i].csf_brightness, default=None)
    if bright is None or found[bright].csf_brightness <= CSF_BRIGHT:
        return [math.nan] * len(found)
    dark = min(set(known) - {bright}, key=lambda i: _or(found[i].lesion_z, 0.0), default=None)
    if dark is None:
        return [math.nan] * len(found)
    return [
        median([median([float(p.csf_z[bright, dark, c]) for p in probes]) for probes in patients])
        for c in range(len(found))
    ]


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value


def _looks_like(found: Appearance, enhancement_z: float) -> str:
    if math.isnan(found.csf_brightness):
        return "unknown"
    if found.csf_brightness > CSF_BRIGHT:
        return "T2"
    if math.isnan(found.lesion_z):
        return "unknown"
    if found.lesion_z >= LESION_BRIGHT:
        return "FLAIR"
    return "T1ce" if enhancement_z > ENHANCES else "T1"


def _judge(channels: tuple[ChannelEvidence, ...], channel: int) -> tuple[bool, str]:
    chosen = channels[channel]
    others = [one for one in channels if one.looks_like == "FLAIR" and one is not chosen]
    best = max(others, key=lambda one: one.lesion_z, default=None)
    hint = f"; channel {best.channel} ({best.name}) looks like FLAIR" if best else ""
    what = f"channel {channel} ({chosen.name})"
    if chosen.looks_like == "T2":
        return False, f"{what} looks like T2, not FLAIR: {_csf_words(chosen, best)}{hint}"
    if chosen.looks_like in ("T1", "T1ce"):
        words = f"its tumour is {chosen.lesion_z:+.1f} σ from the brain"
        compare = f", on channel {best.channel} {best.lesion_z:+.1f} σ" if best else ""
        like = chosen.looks_like
        limit = f"FLAIR: above {LESION_BRIGHT:+.1f}"
        return False, f"{what} looks like {like}, not FLAIR: {words}{compare} ({limit}){hint}"
    if best and best.lesion_z - _or(chosen.lesion_z, best.lesion_z) > CLEARLY_BRIGHTER:
        words = f"{best.lesion_z:+.1f} σ against {chosen.lesion_z:+.1f} σ"
        return False, f"{what} is less like FLAIR than channel {best.channel}: its tumour {words}"
    if math.isnan(chosen.csf_brightness):
        return False, f"{what} shows too little tissue to be judged"
    if chosen.looks_like == "unknown":
        words = f"{_csf_words(chosen, None)}; no tumour can be measured, which would tell more"
        return True, f"{what} is not T2: {words}"
    figures = f"tumour {chosen.lesion_z:+.1f} σ from the brain, {_csf_words(chosen, None)}"
    return True, f"{what} looks like FLAIR: {figures}"


def _csf_words(chosen: ChannelEvidence, best: ChannelEvidence | None) -> str:
    limit = f"FLAIR: below {CSF_BRIGHT:+.2f}"
    words = f"CSF brightness {chosen.csf_brightness:+.2f} ({limit})"
    if not math.isnan(chosen.csf_z):
        compare = f", on channel {best.channel} {best.csf_z:+.1f} σ" if best else ""
        words += f", CSF {chosen.csf_z:+.1f} σ from the brain{compare}"
    return words


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in values.items()
    }
