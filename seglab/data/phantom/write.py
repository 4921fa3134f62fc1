"""Writes a phantom set: all of it, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from seglab.core.errors import UserError
from seglab.core.machine import available_cores
from seglab.core.progress import progress
from seglab.data.phantom.kaggle import CONTENT, SliceRow, write_tables, write_volume
from seglab.data.phantom.patient import Plant, Traits, check_request, make_patient
from seglab.data.workers import Workers

RECORD = "phantom.json"
"""Beside the data: the parameters, and what was drawn for each patient."""
GENERATOR = 2
"""Raised whenever the same parameters would give other files."""

Job = tuple[int, int, int, int, Plant | None]
"""Seed, patient, size, slices and plant: what ``make_patient`` takes."""


@dataclass(frozen=True)
class PhantomReport:
    """What was written, or found in place."""

    out: Path
    patients: int
    slices: int
    tumour_slices: int
    bytes: int
    seconds: float
    reused: bool


@dataclass(frozen=True)
class _Volume:
    traits: Traits
    rows: list[SliceRow]


def write_phantom(
    out: Path,
    *,
    patients: int = 12,
    size: int = 240,
    slices: int = 155,
    seed: int = 0,
    workers: int = 0,
    plants: Mapping[int, Plant] | None = None,
) -> PhantomReport:
    """Write a synthetic set in the Kaggle layout.

    Patients are ``volume_1`` to ``volume_{patients}``; each depends on ``seed`` and its
    number alone. The folder appears when it is complete; the same call again re-uses it.

    Args:
        out: folder to make.
        patients: how many.
        size: side of a slice in pixels, at least 32; the field of view is always 240 mm.
        slices: slices of a stack, at least 8, over 155 mm.
        seed: of all that is random.
        workers: processes; 0 takes one a core.
        plants: difficulties to plant, by patient number.

    Raises:
        UserError: bad parameters, another thing in ``out``, or a disk that cannot be written.
    """
    plants = dict(sorted((plants or {}).items()))
    _check(patients, size, slices, seed, workers, plants)
    wanted = {
        "generator": GENERATOR,
        "patients": patients,
        "size": size,
        "slices": slices,
        "seed": seed,
        "plants": {str(number): plant for number, plant in plants.items()},
    }
    found = _existing(out, wanted)
    if found is not None:
        return found
    jobs = [(seed, n, size, slices, plants.get(n)) for n in range(1, patients + 1)]
    return _write_set(out, wanted, jobs, workers)


def _check(
    patients: int, size: int, slices: int, seed: int, workers: int, plants: Mapping[int, Plant]
) -> None:
    for name, value, least in (
        ("patients", patients, 1),
        ("seed", seed, 0),
        ("workers", workers, 0),
    ):
        if value < least:
            raise UserError(f"phantom {name} {value} is out of range: at least {least}")
    check_request(size, slices)
    for number, plant in plants.items():
        check_request(size, slices, plant)
        if not 1 <= number <= patients:
            raise UserError(f"plant for patient {number}: there are patients 1 to {patients}")


def _existing(out: Path, wanted: Mapping[str, Any]) -> PhantomReport | None:
    """The set already in ``out`` if it is the wanted one; None if there is nothing."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        record = json.loads((out / RECORD).read_text())
        parameters = record["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{out} exists and is not a phantom set; choose another --out") from None
    if parameters != wanted:
        differs = ", ".join(
            f"{key} {parameters.get(key)} instead of {value}"
            for key, value in wanted.items()
            if parameters.get(key) != value
        )
        raise UserError(f"{out} holds another phantom set ({differs}); choose another --out")
    report = _report(out, record, 0.0, reused=True)
    if len(list((out / CONTENT).glob("*.h5"))) != report.slices:
        raise UserError(f"{out} has lost slices since it was written; remove it and run again")
    return report


def _write_set(
    out: Path, wanted: Mapping[str, Any], jobs: list[Job], workers: int
) -> PhantomReport:
    started = time.perf_counter()
    with _all_or_nothing(out) as folder:
        (folder / CONTENT).mkdir(parents=True)
        volumes = _write_volumes(folder / CONTENT, jobs, workers)
        record = _write_record(folder, wanted, volumes)
    return _report(out, record, time.perf_counter() - started, reused=False)


def _write_volumes(folder: Path, jobs: list[Job], workers: int) -> list[_Volume]:
    with Workers(min(workers or available_cores(), len(jobs))) as pool:
        volumes = pool.map(partial(_write_one, folder), jobs)
        return list(progress(volumes, "phantoms", total=len(jobs), unit="patient"))


def _write_one(folder: Path, job: Job) -> _Volume:
    seed, number, size, slices, plant = job
    patient = make_patient(seed, number, size=size, slices=slices, plant=plant)
    return _Volume(patient.traits, write_volume(folder, number, patient.image, patient.labels))


def _write_record(
    folder: Path, wanted: Mapping[str, Any], volumes: list[_Volume]
) -> Mapping[str, Any]:
    rows = [row for volume in volumes for row in volume.rows]
    write_tables(folder, rows, [(v.traits.patient, v.traits.grade) for v in volumes])
    record = {
        "parameters": wanted,
        "tumour_slices": sum(any(row.pixels) for row in rows),
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "traits": [asdict(volume.traits) for volume in volumes],
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return record


def _report(out: Path, record: Mapping[str, Any], seconds: float, *, reused: bool) -> PhantomReport:
    parameters = record["parameters"]
    return PhantomReport(
        out=out,
        patients=parameters["patients"],
        slices=parameters["patients"] * parameters["slices"],
        tumour_slices=record["tumour_slices"],
        bytes=record["bytes"],
        seconds=seconds,
        reused=reused,
    )


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """A temporary sibling of ``out`` that takes its name when the block ends well."""
    folder = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        for left in out.parent.glob(f".{out.name}.tmp-*"):
            if _is_abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
        # A rename onto an empty folder succeeds, onto any other fails.
        folder.rename(out)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write the phantom set to {out}: {reason}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Whether the process that was filling ``folder`` is gone (or is this one)."""
    pid = folder.name.rpartition("-")[2]
    if not pid.isdigit() or os.name == "nt":  # there, signal 0 is not a mere question
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
