"""The stages: importing this registers them, in the order of the table."""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from torch.utils.data import DataLoader

from benchmarks import references as usual
from benchmarks.stage import (
    FULL_SET,
    Bench,
    Measurement,
    compare,
    in_process,
    in_turn,
    stage,
    with_split,
)
from seglab.core.config import RunConfig
from seglab.data.cache import Cache, open_cache
from seglab.data.loader import TrainLoader
from seglab.data.open import open_data
from seglab.data.prepare import prepare
from seglab.data.sources.base import Source, open_source
from seglab.evaluation.metrics import score_patient
from seglab.learning.batches import Batches
from seglab.learning.device import choose_compute
from seglab.learning.inference import brain_rows
from seglab.learning.training import Trainer, fit, train_epoch, train_step
from seglab.models.build import gflops_per_image
from seglab.studies.experiment import OpenRun, Plan, open_run
from seglab.tracking.connect import open_store

Calls = dict[str, Callable[[], object]]
SPACING_MM = (1.0, 1.0, 1.0)
FIRST_STEP = """
import os, sys
from seglab.cli.main import main
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit(0))
raise SystemExit(f"no training step was made: {main(['run', sys.argv[1], '--fresh'])}")
"""


@stage("prepare-h5", "prepare", "files/s", 2)
def prepare_slice_files(bench: Bench) -> Measurement:
    """Slice files to the cache, against a loop that reads image[:] and mask[:] of every file."""
    return _prepare(bench, bench.slice_files(bench.count(3000)), usual.read_slices, every=6)


@stage("prepare-nifti", "prepare", "volumes/s", 1.6)
def prepare_volumes(bench: Bench) -> Measurement:
    """NIfTI volumes to the cache, against a loop of nibabel loads."""
    return _prepare(bench, bench.volumes, usual.read_volumes, every=2)


def _prepare(
    bench: Bench, source: Source, loop: Callable[[list[Path]], None], every: int
) -> Measurement:
    """Compare filling a cache with a loop over each so many-th file."""
    patients = source.patients()
    files = [list(dict.fromkeys((*p.images["flair"], *p.label_files))) for p in patients]
    paths = [path for some in files for path in some]
    with in_process(partial(partial, loop, paths[::every])) as theirs:
        calls: Calls = {"ours": partial(_fill, bench, source), "loop": theirs}
        seconds = in_turn(calls, bench.rounds, warm_up=False)
    read = len(paths) / len(paths[::every])
    count = len(paths) if loop is usual.read_slices else len(patients)
    return compare(count, seconds["ours"], [s * read for s in seconds["loop"]])


def _fill(bench: Bench, source: Source, *, keep: bool = False) -> Cache:
    data = bench.config({"data": {"cache": f"{bench.scratch}/filled", "workers": 0}}).data
    cache, _ = prepare(source, data, source.patients())
    if not keep:
        shutil.rmtree(data.cache)
    return cache


@stage("batches", "batches", "slices/s", 2)
def batches(bench: Bench) -> Measurement:
    """Batches from the cache at full size, against a Dataset of h5 files in a DataLoader."""
    samples = bench.count(480)
    whole = {"image_size": bench.size, "crop": "none"}
    drawn = {"samples_per_epoch": 40 * samples}
    config = bench.config({"augment": "none", "data": whole, "train": drawn})
    data = open_data(config)
    loader = TrainLoader(data.cache, data.split.train, config)
    ours = Batches(loader, data.split.train, choose_compute(config.train))
    files = usual.SliceFiles(_files(config, data.split.train)[:samples])
    size = config.train.batch_size
    loaders = {n: DataLoader(files, size, num_workers=n, persistent_workers=n > 0) for n in (0, 2)}
    calls: Calls = {"ours": lambda: _run_through(ours.epoch(0))}
    calls |= {str(n): partial(_run_through, loader) for n, loader in loaders.items()}
    seconds = in_turn(calls, bench.rounds)
    own = seconds.pop("ours")
    best = min(seconds, key=lambda name: statistics.median(seconds[name]))
    theirs = [value * loader.samples / len(files) for value in seconds[best]]
    return replace(
        compare(loader.samples, own, theirs), note=f"the reference is fastest with {best} workers"
    )


def _run_through(items: Any) -> None:
    for _ in items:
        pass


@stage("epoch-plain", "training", "images/s", 0.9)
def plain_epoch(bench: Bench) -> Measurement:
    """An epoch without augmentation, validated and logged, against a bare loop that only trains."""
    return _against_bare(bench, bench.config({"augment": "none"}))


@stage("epoch", "training", "images/s", 0.9)
def augmented_epoch(bench: Bench) -> Measurement:
    """The same with the default augmentation."""
    return _against_bare(bench, bench.config())


@stage("epoch-tutorial", "training", "images/s", 2.5)
def against_tutorial(bench: Bench) -> Measurement:
    """The same against the usual script: h5 files, float32, same network, size, augmentation."""
    return _against_tutorial(bench, _short(bench))


@stage("epoch-tutorial-240", "training", "images/s", 4)
def against_tutorial_uncropped(bench: Bench) -> Measurement:
    """The same at full size, cropped to the brain, against the script on whole slices."""
    larger = {"data": {"image_size": bench.size}, "train": {"samples_per_epoch": bench.count(144)}}
    return _against_tutorial(bench, _short(bench, larger), (bench.size, bench.size))


@stage("epoch-monai", "training", "images/s", 1.5)
def against_monai(bench: Bench) -> Measurement:
    """The same against MONAI: CacheDataset, ThreadDataLoader, its transforms, same precision."""
    usual.require_monai()
    config = _short(bench)
    with _our_epochs(config) as (run, epoch):
        cache, trainer = run.data.cache, run.trainer
        known = np.concatenate([brain_rows(cache, cache.by_id[n]) for n in run.data.split.val])
        rows = trainer.loader.draw(0)
        make = partial(usual.MonaiTraining, config, cache.path, rows, known, trainer.compute)
        return _against(bench, run, epoch, make)


def _short(bench: Bench, *overrides: Mapping[str, Any]) -> RunConfig:
    """A run on few slices and patients, for the references are slow."""
    few = {"data": {"patients": bench.count(12)}, "train": {"samples_per_epoch": bench.count(224)}}
    return bench.config(few, *overrides)


@contextmanager
def _our_epochs(config: RunConfig) -> Iterator[tuple[OpenRun, Callable[[], object]]]:
    """Open a run as the command line would; the call trains, validates, logs, saves an epoch."""
    longer = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 100})})
    data = open_data(longer)
    with open_run(Plan(longer, arm=config.name), open_store(), data, fresh=True) as run:
        epochs = run.epochs()
        yield run, lambda: next(epochs)


def _bare_loop(run: OpenRun) -> usual.BareLoop:
    trainer = run.trainer
    return usual.BareLoop(trainer.config, trainer.cache, trainer.loader.draw(0), trainer.compute)


def _against_bare(bench: Bench, config: RunConfig) -> Measurement:
    with _our_epochs(config) as (run, epoch):
        seconds = in_turn({"ours": epoch, "bare": _bare_loop(run)}, bench.rounds)
        measured = compare(run.trainer.loader.samples, seconds["ours"], seconds["bare"])
        return with_split(measured, epoch)


def _files(config: RunConfig, names: tuple[str, ...]) -> list[Path]:
    """The h5 files of these patients."""
    patients = open_source("brats-h5", config.data.root).patients()
    return [path for p in patients if p.patient_id in set(names) for path in p.files]


def _against_tutorial(
    bench: Bench, config: RunConfig, shape: tuple[int, int] | None = None
) -> Measurement:
    with _our_epochs(config) as (run, epoch):
        split, cache = run.data.split, run.data.cache
        files = list(islice(cycle(_files(config, split.train)), run.trainer.loader.samples))
        known, shape = _files(config, split.val), shape or cache.shape
        make = partial(usual.TutorialScript, config, files, known, shape, cache.mirror_axis)
        return _against(bench, run, epoch, make)


def _against(
    bench: Bench, run: OpenRun, epoch: Callable[[], object], make: Callable[[], Any]
) -> Measurement:
    """Compare epochs, and tell the most that is possible with this network and precision."""
    with in_process(make) as theirs:
        calls: Calls = {"ours": epoch, "theirs": theirs, "bare": _bare_loop(run)}
        seconds = in_turn(calls, bench.rounds)
    samples = run.trainer.loader.samples
    limit = compare(samples, seconds["bare"], seconds["theirs"]).ratio
    measured = compare(samples, seconds["ours"], seconds["theirs"])
    return replace(measured, note=f"a bare loop, which reads and augments nothing: {limit:.1f}×")


@stage("validation", "evaluation", "patients/s", 5)
def validation(bench: Bench) -> Measurement:
    """Every score of a patient, against MONAI's Dice, HD95 and surface Dice of the same masks."""
    usual.require_monai()
    truths = [bench.volumes.read(patient).labels > 0 for patient in bench.volumes.patients()[:3]]
    pairs = [(np.roll(t, (1, 2, -2), (0, 1, 2)) | np.roll(t, 3, 1), t) for t in truths if t.any()]
    ours = partial(score_patient, "x", spacing_mm=SPACING_MM, contiguous=True)
    for prediction, truth in pairs:
        score = ours(prediction, truth)
        for name, value in usual.monai_scores(prediction, truth, SPACING_MM).items():
            if not math.isclose(getattr(score, name), value, rel_tol=1e-6, abs_tol=1e-6):
                raise ArithmeticError(f"{name} is {getattr(score, name)}, MONAI's {value}")
    calls: Calls = {
        "ours": lambda: [ours(*pair) for pair in pairs],
        "theirs": lambda: [usual.monai_scores(*pair, SPACING_MM) for pair in pairs],
    }
    seconds = in_turn(calls, bench.rounds)
    return compare(len(pairs), seconds["ours"], seconds["theirs"])


@stage("first-step", "start", "s", 3, target_is="at most")
def first_step(bench: Bench) -> Measurement:
    """From the command to the end of the first step, cache filled, against import torch."""
    config = bench.config()
    open_data(config)
    path = bench.scratch / "first_step.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()), encoding="utf-8")
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    calls = {
        "ours": lambda: run([sys.executable, "-c", FIRST_STEP, str(path)]),
        "torch": lambda: run([sys.executable, "-c", "import torch"]),
    }
    seconds = in_turn(calls, bench.rounds)
    ours, theirs = (statistics.median(seconds[name]) for name in calls)
    return Measurement(ours, theirs, ours / theirs)


@stage("memory", "memory", "MB", 1000, target_of="ours", target_is="at most")
def memory(bench: Bench) -> Measurement:
    """Memory that training on all slices takes beyond training on few, against the cache's size."""
    peaks = []
    for count in (bench.count(720), bench.count(FULL_SET)):
        cache = _fill(bench, bench.slice_files(count), keep=True)
        with in_process(partial(partial, _peak_mb, bench.config(), cache.path)) as call:
            peaks.append(call())
    growth, cache_mb = max(peaks[1] - peaks[0], 0.1), cache.bytes / 1e6
    note = f"{peaks[0]:,.0f} MB and {peaks[1]:,.0f} MB for {cache.slices:,} slices"
    return Measurement(growth, cache_mb, growth / cache_mb, note)


def _peak_mb(config: RunConfig, folder: Path) -> float:
    """The most memory, MB, without the mapped cache, that an epoch takes."""
    own, ended, peak = psutil.Process(), threading.Event(), [0.0]

    def watch() -> None:
        while not ended.wait(0.02):
            info = own.memory_info()
            peak[0] = max(peak[0], (info.rss - getattr(info, "shared", 0)) / 1e6)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    cache = open_cache(folder)
    names = [patient.patient_id for patient in cache.patients]
    next(fit(Trainer(config, cache, names[1:], choose_compute(config.train)), names[:1]))
    ended.set()
    watcher.join()
    return peak[0]


@stage("gpu-unet", "gpu", "images/s", 2500, target_of="ours", device="cuda")
def classic_unet(bench: Bench) -> Measurement:
    """Training the base-64 U-Net at 240², against steps on one batch already there."""
    return measure_gpu(bench, {"name": "unet", "base_channels": 64}, 240)


@stage("gpu-resnet34", "gpu", "images/s", 5000, target_of="ours", device="cuda")
def resnet34_unet(bench: Bench) -> Measurement:
    """Training smp-unet on resnet34 at 256², against steps on one batch already there."""
    return measure_gpu(bench, {"name": "smp-unet", "encoder": "resnet34"}, 256)


def measure_gpu(bench: Bench, model: Mapping[str, Any], side: int) -> Measurement:
    """Images a second, the share of the matrix rate, and which part of a step takes longest."""
    frame = {"image_size": side, "crop": "none"}
    train = {"batch_size": 32, "samples_per_epoch": bench.count(4800), "compile": bench.share == 1}
    config = bench.config({"data": frame, "model": dict(model), "train": train})
    data, compute = open_data(config), choose_compute(config.train)
    trainer = Trainer(config, data.cache, data.split.train, compute)
    batch, count = next(iter(trainer.batches.epoch(0))), trainer.loader.batches

    def seconds_of(call: Callable[[], object], repeats: int = 1) -> float:
        def all_of_it() -> None:
            for _ in range(repeats):
                call()
            if compute.device.type == "cuda":
                torch.cuda.synchronize(compute.device)

        return statistics.median(in_turn({"": all_of_it}, bench.rounds)[""]) / repeats

    width = 8192 if bench.share == 1 else 64
    matrix = torch.randn(2, width, width, device=compute.device).bfloat16()
    rate = 2 * width**3 / seconds_of(lambda: matrix[0] @ matrix[1], 10)
    epoch_s = seconds_of(lambda: train_epoch(trainer))
    step_s = seconds_of(lambda: train_step(trainer, batch), count)
    started = time.perf_counter()
    train_step(trainer, batch)
    launching = time.perf_counter() - started
    gflops = gflops_per_image(trainer.network, trainer.channels, (side, side))
    parts = {
        "launching": launching,
        "matrix units": 3e9 * gflops * len(batch.rows) / rate,
        "batches": seconds_of(lambda: _run_through(trainer.batches.epoch(0))) / count,
    }
    listed = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in parts.items())
    return Measurement(
        trainer.loader.samples / epoch_s,
        len(batch.rows) / step_s,
        step_s * count / epoch_s,
        f"{parts['matrix units'] * count / epoch_s:.0%} of the card's bf16 rate of "
        f"{rate / 1e12:.0f} TFLOP/s; limited by {max(parts, key=lambda name: parts[name])}; "
        f"ms a step: {listed}, measured {1e3 * epoch_s / count:.1f}",
    )
