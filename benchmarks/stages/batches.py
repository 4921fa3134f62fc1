"""From the cache, or from the files, to batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from benchmarks.material import Material
from benchmarks.references.cached import CachedSlices, usual_augmentation
from benchmarks.references.loaders import loaders, run_through
from benchmarks.references.slice_files import SliceFiles
from benchmarks.stage import Goal, Measurement, compare_rates, stage
from benchmarks.timing import fastest, in_turn
from seglab.data.loader import TrainLoader
from seglab.learning.batches import Batches
from seglab.studies.data import open_data

PLAIN_FACTOR = 40
"""So many times the samples without augmentation: fewer are over before a clock can tell."""


@stage("batches", "batches", "slices/s", goal=Goal(60))
def plain_batches(material: Material) -> Measurement:
    """Batches from the cache at full size, against a Dataset of h5 files in a DataLoader."""
    files = [path for patient in material.slice_files.patients() for path in patient.files]
    samples = material.scale.samples
    config = material.config(
        _full_frame(material),
        {"augment": "none", "train": {"samples_per_epoch": PLAIN_FACTOR * samples}},
    )
    data = open_data(config)
    loader = TrainLoader(data.cache, data.split.train, config)
    ours = Batches(loader, data.split.train, material.compute)
    return _against(material, ours, SliceFiles(files[:samples]))


@stage("batches-augmented", "batches", "slices/s", goal=Goal(3))
def augmented_batches(material: Material) -> Measurement:
    """The same, augmented by default, against albumentations on float32 items of the cache."""
    config = material.config(_full_frame(material))
    data = open_data(config)
    loader = TrainLoader(data.cache, data.split.train, config)
    ours = Batches(loader, data.split.train, material.compute)
    transform = usual_augmentation(data.cache.mirror_axis)
    return _against(material, ours, CachedSlices(data.cache, loader.draw(0), transform))


def _full_frame(material: Material) -> Mapping[str, Any]:
    return {"data": {"image_size": material.scale.size, "crop": "none", "context": 0}}


def _against(material: Material, ours: Batches, theirs: Dataset[Any]) -> Measurement:
    """Compare tensors for the network with those of DataLoaders with 0, 1 and 2 workers."""
    loader = ours.loader
    usual = loaders(theirs, loader.config.train.batch_size)
    contestants = {"ours": partial(_run_epoch, ours)}
    contestants |= {name: partial(run_through, loader) for name, loader in usual.items()}
    seconds = in_turn(contestants, material.scale.rounds)
    own = seconds.pop("ours")
    best = fastest(seconds)
    per_slice = [value / len(theirs) for value in seconds[best]]  # type: ignore[arg-type]
    measured = compare_rates(1, [value / loader.samples for value in own], per_slice)
    return replace(measured, note=f"the reference is fastest with {best}")


def _run_epoch(batches: Batches) -> None:
    run_through(batches.epoch(0))
