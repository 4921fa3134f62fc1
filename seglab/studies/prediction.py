"""Masks, pictures and volumes for new scans."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from seglab.core.documents import read_rows
from seglab.core.errors import UserError
from seglab.core.machine import progress, tell
from seglab.data.identity import identify, measure
from seglab.data.labels import UNKNOWN_PART
from seglab.data.names import SYNTHETIC, NameMapping
from seglab.data.pack import SingleVolume
from seglab.data.scans import OTHER_IMAGES, SUFFIXES, Scan, find_scans
from seglab.data.sources.base import walk
from seglab.data.volume import Volume
from seglab.figures.sheets import prediction_sheet
from seglab.learning.bundle import ModelBundle, ModelCard

TABLE = "predictions.csv"
TOLD = {
    "test": "is in the test part of this model, which no choice may use",
    "val": "validated this model, whose threshold was chosen on it: the mask is no test of it",
    "train": "trained this model: the mask is better than a new patient's would be",
}
"""Part of the split → what to know of a mask; of a person in several, the last counts."""


@dataclass(frozen=True)
class Predicted:
    """What became of one scan."""

    patient: str
    input: Path
    mask: Path
    overlay: Path
    volume_ml: float | None  # None where the spacing is unknown
    warnings: tuple[str, ...]
    seen: tuple[Path, ...]  # further files of the patient: other modalities, a segmentation
    disagreement: Path | None = None  # map of an ensemble: SD of the probability in percent
    doubt_ml: float | None = None  # voxels that one such SD moves over the threshold


@dataclass(frozen=True)
class Predictions:
    """What became of all scans."""

    outputs: Sequence[Predicted]
    failed: Sequence[tuple[Path, str]]  # (input, reason) of those without a mask
    passed_over: Mapping[str, int]  # suffix → files in the folders that no reader takes
    unused: Sequence[Path] = ()  # images in the folders that are no scan by their names

    def to_json(self) -> dict[str, Any]:
        """The keys of ``predict --json``."""
        return {
            "outputs": [vars(one) for one in self.outputs],
            "failed": [{"input": path, "reason": reason} for path, reason in self.failed],
            "passed_over": self.passed_over,
            "unused": self.unused,
        }


def predict(
    bundle: ModelBundle, inputs: Sequence[Path], out: Path, parts: Mapping[str, str] | None = None
) -> Predictions:
    """Predict every patient whose files are given, or lie in a folder given, into ``out``.

    ``predictions.csv`` there lists all masks of the folder, those of earlier calls too. One of
    another input than now is not overwritten: the scan fails. ``parts`` has the part of the split
    of each patient that the model was made with.
    """
    scans, failed = find_scans(inputs, bundle.card.modalities, bundle.card.window)
    files: list[Path] = []
    for folder in inputs:
        with suppress(UserError):  # it is a file, or one of ``failed``
            files.extend(walk(folder))
    used = {path for scan in scans for path in scan.patient.files}
    images = (path for path in files if path.name.lower().endswith(SUFFIXES))
    unused = [] if failed else [path for path in images if path not in used]
    out.mkdir(parents=True, exist_ok=True)
    table = out / TABLE
    rows = {row["mask"]: row for row in read_rows(table, "mask")} if table.exists() else {}
    taken = {
        mask.partition("_pred.")[0]: os.path.normpath(row["input"]) for mask, row in rows.items()
    }
    known = _known_patients(scans, parts or {})
    tell(f"predicting {len(scans)} scan{'s' * (len(scans) != 1)}")
    outputs = []
    try:
        for scan in progress(scans, "predict", unit="scan"):
            try:
                path = os.path.normpath(scan.path.absolute())  # links stay
                if taken.get(scan.name, path) != path:
                    told = f"its mask would overwrite that of {taken[scan.name]} in {out}"
                    raise UserError(f"{told}: choose another --out")
                one = predict_scan(bundle, scan, out, known[scan.name])
                rows[one.mask.name] = {
                    "patient": one.patient,
                    "input": path,
                    "mask": one.mask.name,
                    "volume_ml": "" if one.volume_ml is None else f"{one.volume_ml:.3f}",
                    "warnings": "; ".join(one.warnings),
                }
                outputs.append(one)
            except UserError as error:
                failed.append((scan.path, str(error)))
    finally:
        if rows:
            pd.DataFrame(rows.values()).to_csv(table, index=False)
    suffixes = Counter(path.suffix.lower() for path in files)
    others = {suffix: count for suffix, count in suffixes.items() if suffix in OTHER_IMAGES}
    return Predictions(outputs, failed, others, unused)


def _known_patients(scans: Sequence[Scan], parts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Scan → the warning that its patient, told by name, is of the model's own split."""
    people = NameMapping().people({*parts, *(name for scan in scans for name in scan.names)})
    owners = {people[name].name: name for part in TOLD for name in parts if parts[name] == part}
    found: dict[str, tuple[str, ...]] = {}
    for scan in scans:
        same = (owners.get(people[name].name) for name in scan.names)
        found[scan.name] = tuple(f"{one} {TOLD[parts[one]]}" for one in same if one)[:1]
    return found


def predict_scan(
    bundle: ModelBundle, scan: Scan, out: Path, warnings: Sequence[str] = ()
) -> Predicted:
    """Predict one scan and write its mask and its picture; a UserError where that fails."""
    read = scan.read()
    turned = bundle.card.upright != scan.source.upright
    volume = read.transposed() if turned else read
    prepared = bundle.prepare(volume)
    if not prepared.row_brain_px.any():
        raise UserError(f"{scan.path} shows no brain: nothing stands out from the background")
    probability, marked, spread = bundle.native(prepared, prepared.patient)
    card, doubt = bundle.card, None
    if spread is not None:
        doubt = card.point.in_doubt(probability, spread)
    mask = _as_stored(marked, turned)
    ml, doubt_ml = (_millilitres(one, read) for one in (marked, doubt))
    unlike = scan_warnings(card, volume.of(card.modalities), prepared, marked)
    told = (*warnings, *read.remarks, *unlike)
    first = [f"warning 1 of {len(told)} ({TABLE}): {text}" for text in (*unlike, *told)[:1]]
    overlay = out / f"{scan.name}_overlay.png"
    sheet = prediction_sheet(
        prepared.native_image(prepared.patient),
        marked,
        read.slice_indices,
        upright=card.upright,
        title=[*_title(scan, card, ml, doubt_ml), *first],
        doubt=doubt,
    )
    path, map_path = scan.write(mask, read, out), None
    if spread is not None:
        percent = np.rint(100 * _as_stored(spread, turned)).astype(np.uint8)
        map_path = scan.write(percent, read, out, "disagreement")
    try:
        sheet.savefig(overlay)
    except OSError as error:
        raise UserError(f"cannot write {overlay}: {error}") from error
    name = scan.patient.patient_id
    return Predicted(name, scan.path, path, overlay, ml, told, scan.seen, map_path, doubt_ml)


def _title(
    scan: Scan, card: ModelCard, ml: float | None, doubt_ml: float | None
) -> tuple[str, str]:
    """Two lines above a picture: the scan with its volume, and the model."""
    volume = "volume unknown" if ml is None else f"{ml:.1f} ml"
    doubt = "" if doubt_ml is None else f", {doubt_ml:.1f} ml in doubt (blue)"
    notice = f" · model of {card.notice}" if card.notice else ""
    notice = f" · {SYNTHETIC}" if scan.source.phantom else notice
    return f"{scan.name}: {volume}{doubt}", f"model {card.name}, for research only{notice}"


def _as_stored(stack: NDArray[Any], turned: bool) -> NDArray[Any]:
    """Turn (S, H, W) of the model back to how the scan's slices lie."""
    return np.ascontiguousarray(np.swapaxes(stack, 1, 2)) if turned else stack


def _millilitres(mask: NDArray[np.bool_] | None, volume: Volume) -> float | None:
    """Volume of a mask; None without one, or without a spacing."""
    if mask is None or volume.spacing_mm is None:
        return None
    return float(np.count_nonzero(mask) * math.prod(volume.spacing_mm) / 1000)


def scan_warnings(
    card: ModelCard, volume: Volume, prepared: SingleVolume, mask: NDArray[np.bool_]
) -> list[str]:
    """Say how a volume, whose tumour is ``mask``, is unlike those the model was trained on."""
    warnings = []
    if len(volume.slice_indices) < volume.stack_size:
        warnings.append(
            f"{len(volume.slice_indices)} of {volume.stack_size} slices are there; the others "
            "have no mask"
        )
    if card.shapes and not prepared.further:
        planes = " and ".join(card.shapes)
        warnings.append(f"predicted without {planes} slices: {volume.why_one_plane}")
    trained = (card.shape, *card.shapes.values())
    for shape, cache in zip(trained, (prepared, *prepared.further), strict=False):
        if cache.shape != shape:
            sizes = "{} × {} px instead of {} × {}".format(*cache.shape, *shape)
            told = f"the brain is larger than training's window: the network saw {sizes}"
            warnings.append(f"{told}; check the mask")
    warnings += _identity(card, volume, mask)
    if card.shared_scale and not all(volume.shared_scales):
        warnings.append(
            "each slice has an intensity scale of its own; the model was trained on volumes of one"
        )
    if card.reference is not None:
        levels = dict(zip(card.modalities, prepared.images, strict=True))
        warnings += card.reference.differences(volume, levels)
    return warnings


def _identity(card: ModelCard, volume: Volume, mask: NDArray[np.bool_]) -> list[str]:
    """Warn of images that are not what they are called; some are told only by their tumour.

    That is the one of ``volume.labels`` where they are read, else ``mask`` of the model.
    """
    images, names, axis = volume.images, volume.modalities, card.mirror_axis
    found = identify([measure(images, names, volume.labels, mirror_axis=axis)], names)
    if found.wrong:
        return [one.reason for one in found.wrong]
    if not mask.any():
        return [f"no tumour was found: if there is one, are the names right? {found.reason}"]
    if card.reference is None or "flair" not in names:
        return []
    labels = UNKNOWN_PART * mask.astype(np.uint8)
    outlined = measure(images, names, labels, mirror_axis=axis)["flair"]
    of_flair = next(one for one in found.modalities if one.modality == "flair")
    faint = card.reference.faint(outlined.oedema_z, may_be_t1="t1" in of_flair.looks_like)
    return [] if faint is None else [faint]
