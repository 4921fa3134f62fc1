"""From files to the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

from benchmarks.material import Material
from benchmarks.references.slice_files import read_all
from benchmarks.references.volumes import load_all
from benchmarks.script import Epoch, script
from benchmarks.stage import Goal, Measurement, compare_rates, stage
from benchmarks.timing import in_turn
from seglab.data.cache import CacheSettings
from seglab.data.prepare import prepare
from seglab.data.sources import Source
from seglab.data.volume import Patient

Loop = Callable[[Sequence[Path]], None]
ROUNDS = 3
SAMPLE = 6
"""The loop over slice files reads every sixth: its time grows in proportion, and is long."""


@stage("prepare-h5", "prepare", "files/s", goal=Goal(4))
def prepare_slice_files(material: Material) -> Measurement:
    """Slice files to the cache, against a loop that reads image[:] and mask[:] of every file."""
    fill = Filler(material, material.many_slice_files, material.scale.files)
    paths = fill.paths
    sample = paths[::SAMPLE]
    ours, loop = _in_turn(fill, read_all, sample)
    return compare_rates(len(paths), ours, [s * len(paths) / len(sample) for s in loop])


@stage("prepare-nifti", "prepare", "volumes/s", goal=Goal(1.6))
def prepare_volumes(material: Material) -> Measurement:
    """NIfTI volumes to the cache, against a loop of nibabel loads."""
    fill = Filler(material, material.volumes, 2 * material.scale.volumes)
    paths = fill.paths
    ours, loop = _in_turn(fill, load_all, paths)
    return compare_rates(len(fill.patients), ours, loop)


@stage("prepare-all", "prepare", "minutes")
def prepare_full_set(material: Material) -> Measurement:
    """All slice files of BraTS 2020 to the cache, extrapolated; and the loop, likewise."""
    fill = Filler(material, material.many_slice_files, material.scale.files)
    paths, full = fill.paths, material.scale.full_set
    sample = paths[::SAMPLE]
    ours, loop = _in_turn(fill, read_all, sample, rounds=1)
    minutes = ours[0] / len(paths) * full / 60
    theirs = loop[0] / len(sample) * full / 60
    gigabytes = fill.bytes / len(paths) * full / 1e9
    note = f"{full:,} files from {len(paths):,} measured; the cache takes {gigabytes:.2f} GB"
    return Measurement(minutes, theirs, theirs / minutes, note)


class Filler:
    """Fills a new cache at every call, with as many processes as a run would take.

    Args:
        material: tells the settings of the cache.
        source: of the patients.
        most_files: patients beyond so many files are left out.
    """

    def __init__(self, material: Material, source: Source, most_files: int) -> None:
        self.source = source
        self.patients = _first(source.patients(), most_files)
        self.root = material.scratch / "filled"
        self.settings = CacheSettings.from_config(material.config().data)
        self.bytes = 0

    @property
    def paths(self) -> list[Path]:
        """Files that are read."""
        return [path for patient in self.patients for path in _read_files(patient)]

    def __call__(self) -> None:
        """Fill a cache and remove it."""
        cache, _ = prepare(self.source, self.settings, self.root, workers=0, patients=self.patients)
        self.bytes = cache.bytes
        shutil.rmtree(self.root)


def _in_turn(
    ours: Callable[[], None], loop: Loop, paths: Sequence[Path], rounds: int = ROUNDS
) -> tuple[list[float], list[float]]:
    """Time both; the loop in a process of its own, which our way of using memory does not speed."""
    with script(partial(partial, loop, paths)) as theirs:
        contestants: dict[str, Epoch] = {"ours": ours, "loop": theirs}
        seconds = in_turn(contestants, rounds, warm_up=False)
    return seconds["ours"], seconds["loop"]


def _read_files(patient: Patient) -> list[Path]:
    """Files of FLAIR and the labels; both in one file a slice in the Kaggle layout."""
    return list(dict.fromkeys((*patient.images["flair"], *patient.label_files)))


def _first(patients: Sequence[Patient], most_files: int) -> list[Patient]:
    ends = accumulate(len(_read_files(patient)) for patient in patients)
    return [patient for patient, end in zip(patients, ends, strict=True) if end <= most_files]
