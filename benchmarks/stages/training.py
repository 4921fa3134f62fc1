"""A training epoch as shipped, which is validated, logged and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.material import Material
from benchmarks.references.bare import BareLoop
from benchmarks.references.monai_training import MonaiTraining, require_monai
from benchmarks.references.tutorial import TutorialScript
from benchmarks.script import Epoch, script
from benchmarks.shipped import ShippedEpochs, shipped
from benchmarks.split import split_of
from benchmarks.stage import Goal, Measurement, compare_rates, stage
from benchmarks.timing import in_turn
from seglab.core.config import RunConfig
from seglab.data.sources import open_source
from seglab.learning.inference import brain_rows


@stage("epoch-plain", "training", "images/s", goal=Goal(0.93))
def plain_epoch(material: Material) -> Measurement:
    """An epoch without augmentation, validated and logged, against a bare loop that only trains."""
    return _against_bare(material, "none")


@stage("epoch", "training", "images/s", goal=Goal(0.88))
def augmented_epoch(material: Material) -> Measurement:
    """The same with the default augmentation."""
    return _against_bare(material, "default")


@stage("epoch-tutorial", "training", "images/s", goal=Goal(2.5))
def against_tutorial(material: Material) -> Measurement:
    """The same against the usual script: h5 files, float32, same network, size, augmentation."""
    return _against_tutorial(material, _short(material))


@stage("epoch-tutorial-240", "training", "images/s", goal=Goal(4))
def against_tutorial_uncropped(material: Material) -> Measurement:
    """The same at full size, cropped to the brain, against the script on whole slices."""
    scale = material.scale
    larger = {
        "data": {"image_size": scale.size, "patients": scale.fewer_patients},
        "train": {"samples_per_epoch": scale.fewer_samples},
    }
    config = _short(material, larger)
    return _against_tutorial(material, config, (scale.size, scale.size))


@stage("epoch-monai", "training", "images/s", goal=Goal(1.5))
def against_monai(material: Material) -> Measurement:
    """The same against MONAI: CacheDataset, ThreadDataLoader, its transforms, same precision."""
    require_monai()
    config = _short(material)
    with shipped(config) as ours:
        data, trainer = ours.run.data, ours.run.trainer
        rows = [brain_rows(data.cache, data.cache.by_id[name]) for name in data.split.val]
        folder, drawn = data.cache.path, trainer.loader.draw(0)
        training = partial(
            MonaiTraining, config, folder, drawn, np.concatenate(rows), trainer.compute
        )
        return _compare(material, ours, training)


def _short(material: Material, *overrides: Mapping[str, Any]) -> RunConfig:
    """A run on few slices, for the references are slow; of files, for the script reads them."""
    root = material.data if material.has_slice_files else material.thin_phantoms
    few = {
        "data": {"source": "brats-h5", "root": str(root), "context": 0},
        "train": {"samples_per_epoch": material.scale.few_samples},
    }
    return material.config(few, *overrides)


def _files(config: RunConfig, names: Sequence[str]) -> list[Path]:
    """The h5 files of these patients."""
    source = open_source(config.data.source, config.data.root)
    wanted = set(names)
    return [p for found in source.patients() if found.patient_id in wanted for p in found.files]


def _against_bare(material: Material, augmentation: str) -> Measurement:
    once = {"samples_per_epoch": None, "tumour_fraction": None}
    config = material.config({"augment": augmentation, "train": once})
    with shipped(config) as ours:
        contestants: dict[str, Callable[[], None]] = {"ours": ours, "bare": _bare_loop(ours)}
        seconds = in_turn(contestants, material.scale.rounds)
        measured = compare_rates(ours.images, seconds["ours"], seconds["bare"])
        return replace(measured, split=split_of(ours))


def _against_tutorial(
    material: Material, config: RunConfig, shape: tuple[int, int] | None = None
) -> Measurement:
    with shipped(config) as ours:
        data = ours.run.data
        height, width = shape or data.cache.shape
        files = islice(cycle(_files(config, data.split.train)), ours.images)
        training = partial(
            TutorialScript,
            config,
            list(files),
            _files(config, data.split.val),
            (int(height), int(width)),
            data.cache.mirror_axis,
        )
        return _compare(material, ours, training)


def _compare(
    material: Material, ours: ShippedEpochs, reference: Callable[[], Epoch]
) -> Measurement:
    """Compare epochs, and tell how far anybody could get with this network and precision."""
    with script(reference) as theirs:
        contestants: dict[str, Epoch]
        contestants = {"ours": ours, "theirs": theirs, "bare": _bare_loop(ours)}
        seconds = in_turn(contestants, material.scale.rounds)
    measured = compare_rates(ours.images, seconds["ours"], seconds["theirs"])
    limit = compare_rates(ours.images, seconds["bare"], seconds["theirs"]).ratio
    return replace(measured, note=f"a bare loop, which reads and augments nothing: {limit:.1f}×")


def _bare_loop(ours: ShippedEpochs) -> BareLoop:
    trainer, cache = ours.run.trainer, ours.run.data.cache
    return BareLoop(trainer.config, cache, trainer.loader.draw(0), trainer.compute)
