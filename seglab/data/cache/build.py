"""Fill a cache: the labels and a first modality at once, every other modality when named.

The window that all patients share is known only after the last was read, so a first pass
leaves each patient in a scratch file, cropped to its own brain, and a second one packs them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from seglab.core.config import MODALITIES
from seglab.core.errors import UserError
from seglab.core.progress import progress
from seglab.data.cache.files import (
    FORMAT,
    INDEX,
    LABELS,
    NATIVE_LABELS,
    SLICES,
    Json,
    digest,
    publish,
    read_json,
)
from seglab.data.cache.geometry import cached_shape, place
from seglab.data.cache.patient import Arrays, Part, pack_part, read_part
from seglab.data.cache.store import Cache, CacheSettings
from seglab.data.labels import TARGETS
from seglab.data.sources import Source
from seglab.data.volume import Patient
from seglab.data.workers import Workers

OnBadFile = Literal["fail", "skip"]

SMALL_BYTES = 2**25
"""Below so many bytes of files, starting processes takes longer than reading."""
MOST_NAMES = 12
"""Patients that an error names."""


@dataclass(frozen=True)
class Prepared:
    """What ``prepare`` did."""

    slices: int
    bytes: int
    """Of the arrays that the cache reads."""
    seconds: float
    reused: bool
    """Nothing had to be read."""
    skipped: tuple[tuple[str, str], ...]
    """(patient id, reason) of those left out."""


def prepare(
    source: Source,
    settings: CacheSettings,
    cache_root: Path,
    *,
    modalities: Sequence[str] = ("flair",),
    require: Sequence[str] = (),
    target: str = "whole",
    workers: int = 1,
    on_bad_file: OnBadFile = "fail",
    patients: Sequence[Patient] | None = None,
) -> tuple[Cache, Prepared]:
    """Open the cache of these patients, filling it first with what it lacks.

    A cache is known by its settings, its patients, and the names, sizes and times of their
    files. Of several processes that want the same one, one works and the others wait.

    Args:
        source: where the patients are read.
        settings: how they are cropped, scaled and normalised.
        cache_root: folder of all caches; made if absent.
        modalities: the cache's images, in this order.
        require: a patient needs these, too, to be used.
        target: what the masks mark.
        workers: processes; 0 takes one a core, 1 (and little data) none but this one.
        on_bad_file: ``skip`` leaves out patients that cannot be used, and says so.
        patients: those to prepare; None takes all of the source.

    Raises:
        UserError: a patient that cannot be used, or none that can; a folder that cannot be
            written; a cache that was changed after it was written.
    """
    start = time.perf_counter()
    found = tuple(source.patients() if patients is None else patients)
    wanted = tuple(dict.fromkeys((*modalities, *require)))
    folder = CacheFolder(source, settings, found, cache_root, wanted, on_bad_file == "skip")
    reused = not folder.lacking()
    if not reused:
        with _locked(folder.path):
            reused = not folder.lacking()  # another process may have done it meanwhile
            if not reused:
                folder.fill(workers)
    opened = Cache(folder.path, modalities, target, folder.left_out(target))
    if not opened.patients:
        raise UserError(f"{source.root} has no patient that can be used: {opened.skipped[0][1]}")
    seconds = time.perf_counter() - start
    return opened, Prepared(opened.slices, opened.bytes, seconds, reused, opened.skipped)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache; the kernel frees it when the process dies."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            yield
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write the cache in {folder.parent}: {reason}") from error


def _refusal(reason: str) -> UserError:
    return UserError(f"{reason} (data.on_bad_file=skip leaves such patients out)")


@dataclass(frozen=True)
class CacheFolder:
    """A cache's folder as ``prepare`` wants it, and all that decides what it holds."""

    source: Source
    settings: CacheSettings
    patients: tuple[Patient, ...]
    root: Path
    wanted: tuple[str, ...]
    skip: bool

    @cached_property
    def reference(self) -> str:
        """The modality whose brain decides the window: the first that every patient has."""
        shared = set(MODALITIES).intersection(*(patient.images for patient in self.patients))
        return next((name for name in MODALITIES if name in shared), MODALITIES[0])

    @cached_property
    def path(self) -> Path:
        """Named by all that decides the window and the labels."""
        inputs = {
            "format": FORMAT,
            "source": self.source.name,
            "settings": self.settings.to_dict(),
            "patients": [[patient.patient_id, patient.grade] for patient in self.patients],
            "files": list(self._stats(self.reference, None)),
        }
        key = digest(inputs)[:12]
        return self.root / f"{self.source.name}-{self.settings.image_size}-{key}"

    def lacking(self) -> list[str]:
        """Modalities that have to be read; the reference first where nothing was yet."""
        index = self._said(INDEX)
        if not index:
            return list(dict.fromkeys((self.reference, *self.wanted)))
        found = {name: self._said(f"{name}.json") for name in self.wanted}
        return [
            name
            for name, said in found.items()
            if said.get("base") != index["digest"] or said["stamp"] != self._stamp(name)
        ]

    def left_out(self, target: str) -> dict[str, str]:
        """Patients that cannot be used, and why.

        Raises:
            UserError: there are some, and they may not be skipped.
        """
        index = self._said(INDEX)
        found: dict[str, str] = dict(index["skipped"])
        for name in self.wanted:
            found |= self._said(f"{name}.json")["skipped"]
        if found and not self.skip:
            raise _refusal(f"{next(iter(found.values()))}; so it was when {self.path} was made")
        merged = [entry["patient_id"] for entry in index["patients"] if not entry["parts_known"]]
        if target == "whole" or not merged:
            return found
        some = ", ".join(merged[:MOST_NAMES]) + (", …" if len(merged) > MOST_NAMES else "")
        reason = f"data.target={target}: {len(merged)} masks mark the whole tumour only: {some}"
        if not self.skip:
            raise _refusal(reason)
        return found | dict.fromkeys(merged, reason)

    def fill(self, workers: int) -> None:
        """Read and write what the folder lacks; what a killed process left is removed.

        Raises:
            UserError: a patient cannot be read and may not be skipped, or none can.
            OSError: the folder cannot be written.
        """
        modalities, scratch = self.lacking(), self.path / "scratch"
        rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        small = sum(size for _, size, _ in self._stats(*modalities)) < SMALL_BYTES
        try:
            with Workers(1 if small else workers) as pool:
                self._fill(modalities, scratch, pool)
        finally:
            is_void = not (self.path / INDEX).is_file()
            rmtree(self.path if is_void else scratch, ignore_errors=True)

    def _fill(self, modalities: Sequence[str], scratch: Path, pool: Workers) -> None:
        old = self._said(INDEX)
        read = partial(read_part, source=self.source, settings=self.settings, modalities=modalities)
        jobs = self._jobs(scratch, old)
        parts: list[Part] = []
        with closing(pool.map(read, jobs)) as results:
            for part in progress(results, "reading", total=len(jobs), unit="patient"):
                if part.failed and not self.skip:
                    raise _refusal(next(iter(part.failed.values())))
                parts.append(part)
        index = old or self._new_index(parts)
        parts = [part for part in parts if part.entry]
        pack = partial(pack_part, modalities=modalities, shape=tuple(index["shape"]))
        with closing(pool.map(pack, parts)) as packed:
            shown = progress(packed, "packing", total=len(parts), unit="patient")
            _write(shown, _shapes(index, modalities, with_labels=not old), scratch)
        if not old:
            index = publish(scratch, INDEX, (SLICES, LABELS, NATIVE_LABELS), index)
        for name in modalities:
            bad = {p.patient.patient_id: p.failed[name] for p in parts if name in p.failed}
            about = {"base": index["digest"], "stamp": self._stamp(name), "skipped": bad}
            publish(scratch, f"{name}.json", (f"{name}.npy", f"{name}.scale.npy"), about)

    def _jobs(self, scratch: Path, index: Json) -> list[Part]:
        """All patients, or those that an index knows."""
        known = {entry["patient_id"]: entry for entry in index.get("patients", ())}
        return [
            Part(patient, scratch / f"{number}.npz", known.get(patient.patient_id, {}))
            for number, patient in enumerate(self.patients)
            if not index or patient.patient_id in known
        ]

    def _new_index(self, parts: Sequence[Part]) -> Json:
        bad = {p.patient.patient_id: p.failed[self.reference] for p in parts if not p.entry}
        parts = [part for part in parts if part.entry]
        if not parts:
            reason = f", the first because {next(iter(bad.values()))}" if bad else ""
            raise UserError(f"{self.source.root} has no readable patient{reason}")
        shape = cached_shape((part.extent for part in parts), self.settings)
        for part in parts:
            part.entry["box"] = list(place(part.extent, shape, self.settings))
        return {
            "format": FORMAT,
            "source": self.source.name,
            "upright": self.source.upright,
            "mirror_axis": self.source.mirror_axis,
            "settings": self.settings.to_dict(),
            "reference": self.reference,
            "shape": list(shape),
            "patients": [part.entry for part in parts],
            "remarks": {part.patient.patient_id: part.remarks for part in parts},
            "skipped": bad,
        }

    def _said(self, name: str) -> Json:
        """What a JSON of the folder says; nothing where there is none."""
        path = self.path / name
        return read_json(path) if path.is_file() else {}

    def _stamp(self, modality: str) -> str:
        """What tells a modality's files from changed ones."""
        return digest(list(self._stats(modality)))

    def _stats(self, *modalities: str | None) -> Iterator[tuple[str, int, int]]:
        """Name, size and time of the files of modalities, None for the labels."""
        for patient in self.patients:
            for modality in modalities:
                of = patient.label_files if modality is None else patient.images.get(modality, ())
                yield from map(self._stat, of)

    @cached_property
    def _stat(self) -> Callable[[Path], tuple[str, int, int]]:
        """Looks at a file once, for one may hold every modality and the labels."""
        return cache(partial(_stat, root=self.source.root))


def _stat(path: Path, root: Path) -> tuple[str, int, int]:
    name = str(path.relative_to(root))
    try:
        stat = path.stat()
    except OSError:
        return name, 0, 0  # reading it will say what is wrong
    return name, stat.st_size, stat.st_mtime_ns


def _shapes(
    index: Json, modalities: Sequence[str], *, with_labels: bool
) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that grow by every patient."""
    rows, (height, width) = sum(entry["count"] for entry in index["patients"]), index["shape"]
    shapes: dict[str, tuple[int, ...]] = {f"{n}.npy": (rows, height, width) for n in modalities}
    if with_labels:
        shapes[LABELS] = (rows, len(TARGETS), height, -(-width // 8))
        shapes[NATIVE_LABELS] = (sum(entry["native_bytes"] for entry in index["patients"]),)
    return shapes


def _write(packed: Iterable[Arrays], shapes: dict[str, tuple[int, ...]], scratch: Path) -> None:
    """Append the patients' arrays; tables, which have no shape given, come at the end."""
    tables: dict[str, list[Any]] = {}
    with ExitStack() as stack:
        # Written, not memory-mapped: a full disk must raise, and a mapping would crash.
        grown = {name: stack.enter_context((scratch / name).open("wb")) for name in shapes}
        for name, shape in shapes.items():
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(grown[name], header)
        for arrays in packed:
            for name, array in arrays.items():
                if name in grown:
                    grown[name].write(np.ascontiguousarray(array).data)
                else:
                    tables.setdefault(name, []).append(array)
    for name, parts in tables.items():
        np.save(scratch / name, np.concatenate(parts))
