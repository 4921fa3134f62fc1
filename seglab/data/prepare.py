"""Fill a cache: the labels and a first modality at once, every other modality when named.

The window that all patients share is known only after the last was read, so a first pass
leaves each patient in a scratch file, cropped to its own brain, and a second one packs them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import IO

import numpy as np
from filelock import FileLock

from seglab.core.config import MODALITIES, Data
from seglab.core.documents import digest
from seglab.core.errors import UserError
from seglab.core.machine import progress, tell, worker_pool
from seglab.data.cache import (
    INDEX,
    LABELS,
    NATIVE_LABELS,
    SLICES,
    Cache,
    CacheSettings,
    Json,
    content_digest,
    describe,
    read_json,
)
from seglab.data.geometry import cached_shape, place
from seglab.data.pack import Arrays, Part, pack_part, read_part
from seglab.data.sources.base import Source
from seglab.data.volume import Patient

FORMAT = 5  # goes up with every change of what a cache holds or how it is made
SMALL_BYTES = 2**25  # of files, which are read faster than processes start


def prepare(source: Source, data: Data, patients: Sequence[Patient]) -> tuple[Cache, bool]:
    """Open the cache of these patients, filling it first with what it lacks.

    A cache is known by its settings, its patients, and the names, sizes and times of their
    files. Of several processes that want the same one, one works and the others wait.

    Returns the cache, and whether nothing had to be read. Raises UserError where the cache cannot
    be written, or a patient cannot be used and ``data.on_bad_file`` does not leave it out.
    """
    filler = _Filler(source, data, patients)
    path = data.cache / filler.key
    wanted = tuple(dict.fromkeys((filler.reference, *data.modalities, *data.require)))
    reused = not _lacking(path, wanted)
    if not reused:
        try:
            data.cache.mkdir(parents=True, exist_ok=True)
            with FileLock(data.cache / f".{path.name}.lock"):
                lacking = _lacking(path, wanted)  # another process may have done it meanwhile
                reused = not lacking
                if lacking:
                    what = f"{', '.join(lacking)} of {len(patients)} patients"
                    tell(f"reading {what}: not yet in {data.cache} with these settings")
                    filler.fill(path, lacking)
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot write the cache in {data.cache}: {reason}") from error
    cache = Cache(path, data.modalities, data.target, data.require)
    if cache.skipped:
        first = cache.skipped[0][1]
        names = [name for name, reason in cache.skipped if reason == first]
        if data.on_bad_file == "fail":
            raise _refusal(f"{first}: {some_names(names)}")
        if not cache.patients:
            raise UserError(f"{source.root} has no patient that can be used: {first}")
    return cache, reused


def _lacking(path: Path, wanted: Sequence[str]) -> list[str]:
    """Modalities that have to be read; the reference first where nothing was yet."""
    return [name for name in wanted if not (path / f"{name}.json").is_file()]


def _refusal(reason: str) -> UserError:
    return UserError(f"{reason} (data.on_bad_file=skip leaves such patients out)")


def some_names(names: Sequence[str], limit: int = 8) -> str:
    """The first of the names, and how many there are in all."""
    more = f", … ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


class _Filler:
    def __init__(self, source: Source, data: Data, patients: Sequence[Patient]) -> None:
        self.source, self.settings = source, CacheSettings.from_config(data)
        self.skip, self.workers = data.on_bad_file == "skip", data.workers
        shared = set(MODALITIES).intersection(*(patient.images for patient in patients))
        # Its brain decides the window, and its grid where the others lie, whatever else is named.
        self.reference = next((name for name in MODALITIES if name in shared), MODALITIES[0])
        self.patients = [replace(patient, frame=self.reference) for patient in patients]
        tables = [one.table for one in patients if one.table]
        files = (*(path for one in patients for path in one.files), *tables)
        self._sizes = {path: _stat(path) for path in files}
        inputs = {
            "format": FORMAT,
            "source": source.name,
            "settings": self.settings.to_json(),
            "patients": [[patient.patient_id, patient.grade] for patient in patients],
            "images": [sorted(patient.images) for patient in patients],
            "files": [[str(p.relative_to(source.root)), *s] for p, s in self._sizes.items()],
        }
        self.key = f"{source.name}-{data.image_size}-{digest(inputs)[:12]}"

    def fill(self, path: Path, modalities: Sequence[str]) -> None:
        """Read modalities of the patients; what a killed process left is removed."""
        scratch = path / "scratch"
        rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        old = read_json(path / INDEX) if (path / INDEX).is_file() else {}
        try:
            self._fill(scratch, old, modalities)
        finally:
            rmtree(scratch if (path / INDEX).is_file() else path, ignore_errors=True)

    def _fill(self, scratch: Path, old: Json, modalities: Sequence[str]) -> None:
        known = {entry["patient_id"]: entry for entry in old.get("patients", ())}
        jobs = [
            Part(patient, scratch / f"{number}.npz", known.get(patient.patient_id, {}))
            for number, patient in enumerate(self.patients)
            if not old or patient.patient_id in known
        ]
        read = partial(read_part, source=self.source, settings=self.settings, modalities=modalities)
        parts: list[Part] = []
        small = sum(size for size, _ in self._sizes.values()) < SMALL_BYTES
        with worker_pool(1 if small else self.workers) as pool_map:
            for part in progress(pool_map(read, jobs), "reading", total=len(jobs), unit="patient"):
                if part.failed and not self.skip:
                    raise _refusal(next(iter(part.failed.values())))
                parts.append(part)
            index = old or self._new_index(parts)
            parts = [part for part in parts if part.entry]
            pack = partial(pack_part, modalities=modalities, shape=tuple(index["shape"]))
            packed = progress(pool_map(pack, parts), "packing", total=len(parts), unit="patient")
            _write(packed, index, scratch)
        if not old:
            index = publish(scratch, INDEX, (SLICES, LABELS, NATIVE_LABELS), index)
        for name in modalities:
            bad = {p.patient.patient_id: p.failed[name] for p in parts if name in p.failed}
            about = {"base": index["digest"], "skipped": bad}
            publish(scratch, f"{name}.json", (f"{name}.npy", f"{name}.scale.npy"), about)

    def _new_index(self, parts: Sequence[Part]) -> Json:
        bad = {p.patient.patient_id: p.failed[self.reference] for p in parts if not p.entry}
        parts = [part for part in parts if part.entry]
        if not parts:
            reason = f", the first because {next(iter(bad.values()))}" if bad else ""
            raise UserError(f"{self.source.root} has no readable patient{reason}")
        extents = [part.extent for part in parts if part.extent]
        shape = cached_shape(extents, self.settings)
        for part, extent in zip(parts, extents, strict=True):
            part.entry["box"] = list(place(extent, shape, self.settings))
        return {
            "format": FORMAT,
            "source": self.source.name,
            "synthetic": bool(self.source.phantom),
            "upright": self.source.upright,
            "mirror_axis": self.source.mirror_axis,
            "settings": self.settings.to_json(),
            "reference": self.reference,
            "shape": list(shape),
            "patients": [part.entry for part in parts],
            "remarks": {part.patient.patient_id: part.remarks for part in parts},
            "skipped": bad,
        }


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0  # reading it will say what is wrong
    return stat.st_size, stat.st_mtime_ns


def _write(packed: Iterable[Arrays], index: Json, scratch: Path) -> None:
    rows = sum(entry["count"] for entry in index["patients"])
    lengths = {NATIVE_LABELS: sum(entry["native_bytes"] for entry in index["patients"])}
    files: dict[str, IO[bytes]] = {}
    with ExitStack() as stack:
        for arrays in packed:
            for name, array in arrays.items():
                if name not in files:
                    # Written, not memory-mapped: a full disk must raise, a mapping would crash.
                    files[name] = stack.enter_context((scratch / name).open("wb"))
                    shape = (lengths.get(name, rows), *array.shape[1:])
                    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(files[name], header)
                files[name].write(np.ascontiguousarray(array).data)


def publish(scratch: Path, name: str, arrays: Sequence[str], content: Json) -> Json:
    """Move arrays of ``scratch`` to the folder above it, with the JSON that describes them.

    The JSON, which is returned, comes last: without it the arrays count for nothing.
    """
    content = content | {"files": {array: describe(scratch / array) for array in arrays}}
    content["digest"] = content_digest(content)
    (scratch / name).write_text(json.dumps(content), encoding="utf-8")
    for file in (*arrays, name):
        (scratch / file).replace(scratch.parent / file)
    return content
