"""One reading of labels: whole numbers, by a convention that is stated, to one canonical map.

Canonical labels: 0 background, 1 non-enhancing core (necrosis), 2 oedema, 3 enhancing tumour,
4 tumour of unknown part (a merged mask).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.data.normalise import EXACT_SHARE, brain_mask

Labels = NDArray[np.uint8]

NON_ENHANCING, OEDEMA, ENHANCING, UNKNOWN_PART = 1, 2, 3, 4
TARGETS: dict[str, frozenset[int]] = {
    "whole": frozenset({NON_ENHANCING, OEDEMA, ENHANCING, UNKNOWN_PART}),
    "core": frozenset({NON_ENHANCING, ENHANCING}),
    "enhancing": frozenset({ENHANCING}),
}
CONVENTIONS: dict[str, Mapping[int, int]] = {
    "brats2017": {1: NON_ENHANCING, 2: OEDEMA, 4: ENHANCING},
    # Until 2015, and in some patients of later sets: 3 does not enhance.
    "brats2012": {1: NON_ENHANCING, 2: OEDEMA, 3: NON_ENHANCING, 4: ENHANCING},
    "brats2023": {1: NON_ENHANCING, 2: OEDEMA, 3: ENHANCING},
    # After treatment: 4 is the cavity that surgery left, which is no tumour.
    "brats2024": {1: NON_ENHANCING, 2: OEDEMA, 3: ENHANCING, 4: 0},
    "binary": {1: UNKNOWN_PART, 255: UNKNOWN_PART},
}
"""Name (as ``data.labels`` takes it) → label in the file → canonical label; 0 is background."""
LISTED = "dataset.json"  # the convention of a data set that names its labels
MOST_OF_BRAIN = 0.6
"""A tumour is a smaller part of the brain: at most 0.20 of it in 18 volumes, 0.36 in 103 slices."""
OUTSIDE, FEW_PX = 0.1, 100
"""Part of a mask that may lie on the background (at most 0.002 in 18 skull-stripped volumes), and
so few pixels that say nothing as long as they are less than half of the mask."""

ROUNDING = 1e-5  # by which the slope of a header may move a label
_ERAS = {
    r"BraTS-GLI-\d{5}-1\d\d": "brats2024",
    r"BraTS-PED-.+": "brats-ped",  # 1 is its enhancing tumour
    r"BraTS-[A-Z]+-\d{5}-\d{3}": "brats2023",
    r"Brats1[789]_.+|BraTS2[01]_.+|BraTS20\d\d_.+": "brats2017",
    r"brats_(2013|tcia)_.+|VSD\..+": "brats2012",
}
"""What the names of the challenges' patients tell."""
_THREE_AND_FOUR = {
    "brats2012": "3 non-enhancing core, 4 enhancing tumour",
    "brats2024": "3 enhancing tumour, 4 the resection cavity",
}
UNLESS = "nothing is to be done unless that is wrong (then set data.labels)"
_PARTS = {
    r"background|cavity|ignore": 0,
    r"non.?enhanc|necro|core|ncr": NON_ENHANCING,
    r"enhanc": ENHANCING,
    r"o?edema": OEDEMA,
    r"whole|tumou?r|lesion|glioma|mask": UNKNOWN_PART,
}
"""Names of labels in a dataset.json; the first that is found in a name counts."""


@dataclass(frozen=True)
class LabelMap:
    """A segmentation as read."""

    path: Path  # the file, or the first of several
    labels: Labels  # canonical, of the shape of the file's array
    convention: str
    parts_known: bool
    remarks: tuple[str, ...] = ()


def target_mask(labels: Labels, target: str) -> Labels:
    """Mark a target, one of ``TARGETS``, in a canonical label map: (S, H, W) in {0, 1}."""
    marked = np.zeros(256, np.uint8)
    marked[list(TARGETS[target])] = 1
    return marked.take(labels)


def read_labels(
    path: Path,
    stored: NDArray[Any],
    *,
    name: str = "",
    chosen: str = "auto",
    listed: Mapping[int, int] | None = None,
) -> LabelMap:
    """Translate the labels of a file, of any numeric type and shape, into canonical ones.

    ``chosen`` is ``data.labels``: a convention, or ``auto``, by which a ``dataset.json`` that
    ``listed`` them decides, or else the values and the patient's ``name``, which may tell the year
    of the challenge. Raises UserError for values of no convention, or of several.
    """
    inside = stored != 0
    marked = _whole_numbers(path, stored[inside])
    values = [int(value) for value in np.unique(marked) if value]
    if chosen == "auto" and listed is not None:
        convention, canonical = LISTED, listed
    else:
        convention = _convention(path, values, name) if chosen == "auto" else chosen
        canonical = CONVENTIONS[convention]
    odd = [value for value in values if value not in canonical]
    if odd:
        told = f"{path} holds labels {_some(odd)}, which {convention} does not have (its labels: "
        raise UserError(f"{told}{_some(sorted(canonical))}); data.labels names another convention")
    table = np.zeros(256, np.uint8)
    table[list(canonical)] = list(canonical.values())
    labels = np.zeros_like(stored, np.uint8, subok=False)  # in the same order of axes
    labels[inside] = table[marked]
    known = UNKNOWN_PART not in {canonical[value] for value in values}
    meaning = _THREE_AND_FOUR.get(convention) if {3, 4} <= set(values) else None
    told = f"{read_as(convention)} ({meaning}); {UNLESS}"
    return LabelMap(path, labels, convention, known, (told,) if meaning else ())


def read_as(convention: str) -> str:
    """Begin what is said of a convention that was taken."""
    return f"labels are read as {convention}"


def _whole_numbers(path: Path, marked: NDArray[Any]) -> NDArray[np.uint8]:
    with np.errstate(invalid="ignore"):
        whole: NDArray[np.uint8] = np.rint(marked).astype(np.uint8)
    odd = marked[~(np.abs(whole - marked.astype(np.float64)) <= ROUNDING)]
    if odd.size:
        nan = "mask values that are NaN; " if (odd != odd).any() else ""
        told = f"{path} holds {nan}labels {_some(np.unique(odd))}: labels are whole numbers from 0"
        raise UserError(f"{told} to 255 (resample a mask with nearest neighbour)")
    return whole


def _convention(path: Path, values: list[int], name: str) -> str:
    """By the values, and where several conventions fit, by the name of the patient."""
    named = (era for pattern, era in _ERAS.items() if re.fullmatch(pattern, name, re.IGNORECASE))
    era = next(named, None)
    if values in ([1], [255]):
        return "binary"
    if era == "brats2024" or (era == "brats2023" and 3 in values):
        return "brats2024" if 4 in values else "brats2023"
    if 3 not in values and era != "brats-ped":
        return "brats2017"
    if era == "brats2012" or (4 in values and era == "brats2017"):
        return "brats2012"
    fitting = [each for each, known in CONVENTIONS.items() if set(values) <= known.keys()]
    if not fitting:
        return "brats2017"
    raise UserError(
        f"{path} holds labels {_some(values)}, which {' and '.join(fitting)} read differently, and "
        "no name tells which is meant: set data.labels to one of them"
    )


def _some(values: Any) -> str:
    return ", ".join(f"{value:.8g}" for value in values[:5]) + (", …" if len(values) > 5 else "")


def canonical_names(names: Mapping[str, Any]) -> dict[int, int] | None:
    """Canonical labels of the ``labels`` of a ``dataset.json``; None where a name is not known.

    Both ways round ({"2": "edema"}, {"edema": 2}), and the regions of nnU-Net, where
    {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3} tells parts too.
    """
    pairs = [(v, k) if str(k).isdecimal() else (k, v) for k, v in names.items()]
    regions = [(str(k).lower(), v if isinstance(v, list | tuple) else [v]) for k, v in pairs]
    found: dict[int, int] = {}
    # The smaller region says more of a label than the larger one around it.
    for name, numbers in sorted(regions, key=lambda region: -len(region[1])):
        part = next((part for pattern, part in _PARTS.items() if re.search(pattern, name)), None)
        if part is None:
            return None
        if "whole" in name and len(regions) > 2:  # what of it is in no other region
            part = OEDEMA
        found |= dict.fromkeys(map(int, numbers), part)
    found.pop(0, None)
    return found or None


def check_on_image(found: LabelMap, image: NDArray[np.float32], *, shared: bool) -> None:
    """Raise a UserError for labels that cover most of the brain, or lie on the background.

    ``image`` (S, H, W) is one modality; ``shared``: whether its slices share one scale.
    """
    # Every second row and column tells it of a mask that is not small.
    step = 2 if np.count_nonzero(found.labels[:, ::2, ::2]) > FEW_PX else 1
    sampled = np.ascontiguousarray(image[:, ::step, ::step])
    tumour = found.labels[:, ::step, ::step] > 0
    marked = np.count_nonzero(tumour)
    brain = brain_mask(sampled, shared_scale=shared) if marked else tumour
    if not brain.any():
        return
    share = np.count_nonzero(tumour & brain) / np.count_nonzero(brain)
    if share > MOST_OF_BRAIN:
        what = "a brain mask, or an inverted one?"
        raise UserError(f"{found.path} marks {share:.0%} of the brain: {what}")
    # Where air is noise, dark tissue is taken for it; it says nothing.
    stripped = np.count_nonzero(sampled == sampled[:, :1, :1]) > EXACT_SHARE * sampled.size
    outside = np.count_nonzero(tumour & ~brain)
    if stripped and (outside > max(FEW_PX, OUTSIDE * marked) or 2 * outside > marked):
        told = f"{found.path}: {outside / marked:.0%} of the mask lies on the background"
        raise UserError(f"{told}: it belongs to another image, or lies elsewhere")
