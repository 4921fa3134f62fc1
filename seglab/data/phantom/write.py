"""Writes a phantom set: all of it, or nothing."""

from __future__ import annotations

import csv
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import nibabel as nib
import numpy as np

from seglab.core.errors import UserError
from seglab.core.machine import available_cores, progress, worker_pool
from seglab.data.names import PHANTOM
from seglab.data.phantom.anatomy import Array, Point
from seglab.data.phantom.patient import MODALITIES, PARTS, Labels, PhantomPatient, make_patient

Layout = Literal["h5", "nifti"]  # as on Kaggle, a file a slice; as in BraTS, a file a modality
CONTENT = Path("BraTS2020_training_data") / "content" / "data"
"""Where the slices of the Kaggle layout lie below the root of the set."""
NAMES = "Phantom_"  # of the patients, before their number
LEAST = {"patients": 1, "size": 32, "slices": 8}
GENERATOR = 5  # raised whenever the same parameters would give other files
SLICE_COLUMNS = (
    "slice_path,target,volume,slice,label0_pxl_cnt,label1_pxl_cnt,label2_pxl_cnt,background_ratio"
)
NAME_COLUMNS = (
    "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,"
    "BraTS_2019_subject_ID,BraTS_2020_subject_ID"
)


def write_phantom(
    out: Path,
    *,
    patients: int = 12,
    size: int = 240,
    slices: int = 155,
    seed: int = 0,
    workers: int = 0,
    layout: Layout = "h5",
) -> dict[str, Any]:
    """Write patients 1 to ``patients``; each depends on ``seed`` and its number only.

    The folder ``out`` appears when it is complete; the same call again re-uses it. ``size``
    pixels cover 240 mm and ``slices`` cover 155 mm; ``workers`` 0 takes a process a core.
    Returns counts of what was written, or ``reused``. Raises UserError for bad parameters, another
    thing in ``out``, or a full disk.
    """
    given = {"seed": seed, "patients": patients, "size": size, "slices": slices}
    for name, value in (given | {"workers": workers}).items():
        if value < (least := LEAST.get(name, 0)):
            raise UserError(f"phantom {name} {value} is out of range: at least {least}")
    wanted = {"synthetic": True, "names": NAMES, **given, "layout": layout, "generator": GENERATOR}
    started = time.perf_counter()
    found = _existing(out, wanted)
    record = found or _write_set(out, wanted, workers or available_cores())
    return {
        "out": out,
        "patients": patients,
        "slices": patients * slices,
        "tumour_slices": record["tumour_slices"],
        "bytes": record["bytes"],
        "seconds": time.perf_counter() - started,
        "reused": found is not None,
    }


def _existing(out: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        record: dict[str, Any] = json.loads((out / PHANTOM).read_text(encoding="utf-8"))
        differs = [f"{k} {record.get(k)}" for k, v in wanted.items() if record.get(k) != v]
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{out} exists and is not a phantom set; choose another --out") from None
    if differs:
        raise UserError(f"{out} holds another phantom set ({', '.join(differs)}): remove it first")
    return record


def _write_set(out: Path, wanted: dict[str, Any], workers: int) -> dict[str, Any]:
    """Fill a sibling of ``out``, which takes its name when it is complete."""
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
    try:
        content = folder / CONTENT if wanted["layout"] == "h5" else folder
        content.mkdir(parents=True)
        numbers = range(1, wanted["patients"] + 1)
        with worker_pool(min(workers, len(numbers))) as pool_map:
            volumes = pool_map(partial(_write_patient, content, wanted), numbers)
            written = list(progress(volumes, "phantoms", total=len(numbers), unit="patient"))
        traits, rows = [t for t, _ in written], [row for _, rows in written for row in rows]
        if wanted["layout"] == "h5":
            _write_csv(content / "meta_data.csv", SLICE_COLUMNS, rows)
        names = [(patient["grade"], *("NA",) * 4, patient["patient"]) for patient in traits]
        _write_csv(content / "name_mapping.csv", NAME_COLUMNS, names)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        record = wanted | {"tumour_slices": sum(row[1] for row in rows), "bytes": size}
        record["traits"] = traits
        (folder / PHANTOM).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        folder.rename(out)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write the phantom set to {out}: {reason}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return record


def _write_csv(path: Path, columns: str, rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns.split(","), *rows])


def _write_patient(folder: Path, wanted: dict[str, Any], number: int) -> tuple[Any, list[Any]]:
    patient = make_patient(wanted["seed"], number, size=wanted["size"], slices=wanted["slices"])
    patient_id, rows = f"{NAMES}{number:03d}", []
    if wanted["layout"] == "nifti":
        write_nifti(folder / patient_id, patient_id, patient)
    for index, (image, labels) in enumerate(zip(patient.image, patient.labels, strict=True)):
        name = f"volume_{number}_slice_{index}.h5"
        if wanted["layout"] == "h5":
            write_slice(folder / name, image, labels, patient.spacing_mm)
        pixels = [np.count_nonzero(labels == label) for label in PARTS]
        background = 1 - sum(pixels) / labels.size
        # The table of the original names a folder of Kaggle's machines.
        rows.append((f"/content/data/{name}", int(any(pixels)), number, index, *pixels, background))
    return {"patient": patient_id, **patient.traits}, rows


def write_slice(path: Path, image: Array, labels: Labels, spacing_mm: Point) -> None:
    """Write image (H, W, 4) and labels (H, W) of a slice as the Kaggle files hold them.

    Each channel is z-scored over the whole frame; a constant one becomes 0.
    """
    wide = image.astype(np.float64)
    spread = wide.std((0, 1))
    scores = (wide - wide.mean((0, 1))) / np.where(spread > 0, spread, 1)
    planes = [labels == label for label in PARTS]
    mask = np.stack(planes, axis=-1).astype(np.uint8)
    with h5py.File(path, "w") as file:
        for key, values, depth in ("image", scores, 1), ("mask", mask, 2):
            # The fastest level: on noisy floats a higher one saves little and costs twice the time.
            chunks = (*(min(60, side) for side in labels.shape), depth)
            file.create_dataset(key, None, None, values, chunks=chunks, compression=1)
        file["image"].attrs["spacing_mm"] = spacing_mm


def write_nifti(folder: Path, name: str, patient: PhantomPatient) -> None:
    """Write ``<name>_<modality>.nii.gz`` and ``<name>_seg.nii.gz`` as BraTS does: int16, LPS."""
    folder.mkdir(parents=True)
    dz, dx, dy = patient.spacing_mm
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[1, 3] = dy * (patient.labels.shape[2] - 1)
    stacks = dict(zip(MODALITIES, np.moveaxis(patient.image, -1, 0), strict=True))
    for part, stack in (stacks | {"seg": patient.labels}).items():
        image = nib.Nifti1Image(np.moveaxis(stack, 0, -1).astype(np.int16), affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"{name}_{part}.nii.gz")
