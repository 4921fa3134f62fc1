"""From files to the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from seglab.bench.material import Material
from seglab.bench.references.slice_files import read_all
from seglab.bench.references.volumes import load_all
from seglab.bench.stage import Goal, Measurement, compare_rates, stage
from seglab.bench.timing import in_turn
from seglab.data.cache import CacheSettings, prepare
from seglab.data.sources import Source

ROUNDS = 3
SAMPLE = 6
"""The loop over slice files reads every sixth: its time grows in proportion, and is long."""


@stage("prepare-h5", "prepare", "files/s", goal=Goal(4))
def prepare_slice_files(material: Material) -> Measurement:
    """Slice files to the cache, against a loop that reads image[:] and mask[:] of every file."""
    source = material.many_slice_files
    paths = _paths(source)
    sample = paths[::SAMPLE]
    ours, loop = _in_turn(Filler(material, source), lambda: read_all(sample))
    return compare_rates(len(paths), ours, [s * len(paths) / len(sample) for s in loop])


@stage("prepare-nifti", "prepare", "volumes/s", goal=Goal(1.6))
def prepare_volumes(material: Material) -> Measurement:
    """NIfTI volumes to the cache, against a loop of nibabel loads."""
    source = material.volumes
    paths = _paths(source)
    ours, loop = _in_turn(Filler(material, source), lambda: load_all(paths))
    return compare_rates(len(source.patients()), ours, loop)


@stage("prepare-all", "prepare", "minutes")
def prepare_full_set(material: Material) -> Measurement:
    """All slice files of BraTS 2020 to the cache, extrapolated; and the loop, likewise."""
    source, full = material.many_slice_files, material.scale.full_set
    paths = _paths(source)
    sample, filler = paths[::SAMPLE], Filler(material, source)
    ours, loop = _in_turn(filler, lambda: read_all(sample), rounds=1)
    minutes = ours[0] / len(paths) * full / 60
    theirs = loop[0] / len(sample) * full / 60
    gigabytes = filler.bytes / len(paths) * full / 1e9
    note = f"{full:,} files from {len(paths):,} measured; the cache takes {gigabytes:.2f} GB"
    return Measurement(minutes, theirs, theirs / minutes, note)


class Filler:
    """Fills a new cache at every call, with as many processes as a run would take."""

    def __init__(self, material: Material, source: Source) -> None:
        self.source = source
        self.root = material.scratch / "filled"
        self.settings = CacheSettings.from_config(material.config().data, source)
        self.bytes = 0

    def __call__(self) -> None:
        """Fill a cache and remove it."""
        _, prepared = prepare(self.source, self.settings, self.root, workers=0)
        self.bytes = prepared.bytes
        shutil.rmtree(self.root)


def _in_turn(
    ours: Callable[[], None], loop: Callable[[], None], rounds: int = ROUNDS
) -> tuple[list[float], list[float]]:
    seconds = in_turn({"ours": ours, "loop": loop}, rounds, warm_up=False)
    return seconds["ours"], seconds["loop"]


def _paths(source: Source) -> list[Path]:
    return [path for patient in source.patients() for path in patient.files]
