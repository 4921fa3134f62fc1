"""Fill a cache: once, in parallel, and all or nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from seglab.core.errors import UserError
from seglab.core.progress import progress
from seglab.data.cache.assemble import assemble
from seglab.data.cache.files import FORMAT, INDEX, digest, write_index
from seglab.data.cache.lock import held, scratch_folder
from seglab.data.cache.part import Part, make_part
from seglab.data.cache.settings import CacheSettings
from seglab.data.cache.store import Cache, open_cache
from seglab.data.sources import Patient, Source
from seglab.data.workers import Workers

OnBadFile = Literal["fail", "skip"]

SMALL_BYTES = 2**25
"""Below so many bytes of files, starting processes takes longer than reading."""
_KEY_DIGITS = 12


@dataclass(frozen=True)
class Prepared:
    """What ``prepare`` did."""

    slices: int
    bytes: int
    """Of the cache's arrays."""
    seconds: float
    reused: bool
    """The cache was there already."""
    skipped: tuple[tuple[str, str], ...]
    """(patient id, reason) of those left out as unreadable."""


def prepare(
    source: Source,
    settings: CacheSettings,
    cache_root: Path,
    *,
    workers: int,
    on_bad_file: OnBadFile = "fail",
    patients: Sequence[Patient] | None = None,
) -> tuple[Cache, Prepared]:
    """Open the cache of these patients, filling it first if need be.

    A cache is known by its settings and by the names, sizes and times of its files. It
    grows in a scratch folder and appears under its name when it is complete; of several
    processes that want the same one, one works and the others wait.

    Args:
        source: where the patients are read.
        settings: how they are cropped, scaled and normalised.
        cache_root: folder of all caches; made if absent.
        workers: processes; 0 takes one a core, 1 (and little data) none but this one.
        on_bad_file: ``skip`` leaves unreadable patients out, and says so.
        patients: those to prepare; None takes all of the source.

    Raises:
        UserError: an unreadable file, or none readable; a folder that cannot be written;
            a cache that was changed after it was written.
    """
    start = time.perf_counter()
    patients = tuple(source.patients() if patients is None else patients)
    task = _Task(source, settings, patients, workers, on_bad_file)
    path = cache_root / task.name
    cache = _reusable(path, on_bad_file)
    reused = cache is not None
    if cache is None:
        cache, reused = _fill(path, task)
    seconds = time.perf_counter() - start
    return cache, Prepared(len(cache.images), cache.bytes, seconds, reused, cache.skipped)


@dataclass(frozen=True)
class _Task:
    """All that ``prepare`` was asked for."""

    source: Source
    settings: CacheSettings
    patients: tuple[Patient, ...]
    workers: int
    on_bad_file: OnBadFile

    @cached_property
    def stamps(self) -> list[tuple[Path, int, int]]:
        """Name, size and time of every file."""
        return [_stamp(path) for patient in self.patients for path in patient.files]

    @cached_property
    def name(self) -> str:
        """Folder name that stands for all inputs."""
        root = self.source.root
        inputs = {
            "format": FORMAT,
            "source": self.source.name,
            "settings": self.settings.to_dict(),
            "patients": [[patient.patient_id, patient.grade] for patient in self.patients],
            "files": [[str(path.relative_to(root)), *stamp] for path, *stamp in self.stamps],
        }
        key = digest(inputs)[:_KEY_DIGITS]
        return f"{self.source.name}-{self.settings.image_size}-{key}"

    def pool(self) -> Workers:
        """As many processes as were asked for and are worth their start."""
        small = sum(size for _, size, _ in self.stamps) < SMALL_BYTES
        return Workers(1 if small else self.workers)


def _stamp(path: Path) -> tuple[Path, int, int]:
    try:
        stat = path.stat()
    except OSError:
        # Reading it will say what is wrong.
        return path, 0, 0
    return path, stat.st_size, stat.st_mtime_ns


def _reusable(path: Path, on_bad_file: OnBadFile) -> Cache | None:
    if not (path / INDEX).is_file():
        return None
    cache = open_cache(path)
    return None if cache.skipped and on_bad_file == "fail" else cache


def _fill(path: Path, task: _Task) -> tuple[Cache, bool]:
    """Build the cache, or wait for the process that does; tells whether another did."""
    root = path.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with held(root, path.name):
            found = _reusable(path, task.on_bad_file)
            if found is not None:
                return found, True
            with scratch_folder(root, path.name) as scratch:
                _build(scratch, task)
                shutil.rmtree(path, ignore_errors=True)
                scratch.replace(path)
    except OSError as error:
        raise UserError(f"cannot write the cache in {root}: {error.strerror or error}") from error
    return open_cache(path), False


def _build(folder: Path, task: _Task) -> None:
    source = task.source
    with task.pool() as pool:
        parts, skipped = _collect(folder, task, pool)
        arrays = assemble(folder, parts, task.settings, pool)
    content = {
        "format": FORMAT,
        "source": source.name,
        "upright": source.upright,
        "mirror_axis": source.mirror_axis,
        "settings": task.settings.to_dict(),
        "skipped": skipped,
        **arrays,
    }
    write_index(folder, content)


def _collect(folder: Path, task: _Task, pool: Workers) -> tuple[list[Part], list[tuple[str, str]]]:
    """Read all patients; returns those read, and (patient id, reason) of the others."""
    parts: list[Part] = []
    skipped: list[tuple[str, str]] = []
    jobs = [(patient, folder / f"{i}.part") for i, patient in enumerate(task.patients)]
    work = partial(make_part, source=task.source, settings=task.settings)
    with closing(pool.map(work, jobs)) as results:
        for result in progress(results, "reading", total=len(task.patients), unit="patient"):
            if isinstance(result, Part):
                parts.append(result)
            elif task.on_bad_file == "fail":
                raise UserError(f"{result.reason} (data.on_bad_file=skip leaves the patient out)")
            else:
                skipped.append((result.patient_id, result.reason))
    if not parts:
        reason = f", the first because {skipped[0][1]}" if skipped else ""
        raise UserError(f"{task.source.root} has no readable patient{reason}")
    return parts, skipped
