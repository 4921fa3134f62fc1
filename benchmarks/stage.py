"""What a stage is, how contestants are timed, and the data that stages work on."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from seglab.core.config import RunConfig
from seglab.core.documents import merge, read_document
from seglab.core.study import STUDY_KEYS, build_run
from seglab.data.sources.base import Source, open_source

BASELINE = Path(__file__).resolve().parents[1] / "experiments" / "baseline.yaml"
TRACKING = "MLFLOW_TRACKING_URI"
ROUNDS = 3
FULL_SET = 57_195
"""Slices of BraTS 2020."""
PARTS = (
    ("seglab/learning/inference.py", "validation"),
    ("seglab/tracking/", "logging"),
    ("torch/autograd/", "backward"),
    ("seglab/losses", "loss"),
    ("seglab/learning/batches.py", "waiting for batches"),
    ("torch/optim/", "optimizer"),
    ("torch/nn/utils/clip_grad.py", "optimizer"),
    ("torch/nn/modules/", "forward"),
)
"""(file, part of an epoch): the first that is on the stack counts."""


class Unavailable(Exception):
    """A stage cannot be measured here; the message says what is missing."""


@dataclass(frozen=True)
class Measurement:
    """Figures of one stage, in its unit; None where there is none."""

    ours: float | None
    reference: float | None = None
    ratio: float | None = None
    note: str = ""
    split: Mapping[str, float] = field(default_factory=dict)
    """Seconds of ours by part of the epoch."""


@dataclass(frozen=True)
class Stage:
    """One line of the table."""

    name: str
    group: str
    unit: str
    measure: Callable[[Bench], Measurement]
    target: float | None = None
    target_of: str = "ratio"
    """``ratio`` or ``ours``."""
    target_is: str = "at least"
    device: str = "cpu"

    @property
    def meaning(self) -> str:
        """One line: what is measured, against what."""
        return (self.measure.__doc__ or "").strip().splitlines()[0].rstrip(".")

    def met(self, measured: Measurement | None) -> bool | None:
        """Whether the target is reached; None where there is none, or no figure."""
        figure = getattr(measured, self.target_of, None)
        if figure is None or self.target is None:
            return None
        if self.target_is == "at least":
            return bool(figure >= self.target)
        return bool(figure <= self.target)


STAGES: dict[str, Stage] = {}
Measure = Callable[["Bench"], Measurement]


def stage(
    name: str, group: str, unit: str, target: float | None = None, **rest: str
) -> Callable[[Measure], Measure]:
    """Register a function as a stage; the first line of its docstring is what a user reads."""

    def decorate(measure: Measure) -> Measure:
        STAGES[name] = Stage(name, group, unit, measure, target, **rest)
        return measure

    return decorate


@dataclass
class Bench:
    """A scratch folder with phantoms, made on demand; runs are logged there too.

    Args:
        device: to measure on.
        share: of the usual work, for tests.
    """

    device: str = "cpu"
    share: float = 1.0

    def __enter__(self) -> Bench:
        self.scratch = Path(tempfile.mkdtemp(prefix="seglab-bench-"))
        self._tracking = os.environ.pop(TRACKING, None)
        os.environ[TRACKING] = f"sqlite:///{self.scratch}/mlruns/mlflow.db"
        return self

    def __exit__(self, *_: object) -> None:
        del os.environ[TRACKING]
        if self._tracking is not None:
            os.environ[TRACKING] = self._tracking
        shutil.rmtree(self.scratch, ignore_errors=True)

    def count(self, usual: int, least: int = 8) -> int:
        """``usual`` times the share, but at least ``least``."""
        return max(least, int(usual * self.share))

    @property
    def rounds(self) -> int:
        """Timed rounds."""
        return ROUNDS if self.share == 1 else 1

    @property
    def size(self) -> int:
        """Pixels along a phantom's side."""
        return 240 if self.share == 1 else 64

    @cached_property
    def phantoms(self) -> Path:
        """Folder of 20 phantom patients in the Kaggle layout; 14 train and 3 validate."""
        # Here and below: worker processes import this module and make no phantoms.
        from seglab.data.phantom.write import write_phantom

        out = self.scratch / "phantoms"
        write_phantom(out, patients=self.count(20), size=self.size, slices=self.count(36))
        return out

    def slice_files(self, count: int) -> Source:
        """A source of ``count`` slice files: links to the phantoms' as further patients."""
        from seglab.data.phantom.write import CONTENT

        root = self.scratch / f"{count} files"
        paths = sorted((self.phantoms / CONTENT).glob("*.h5"))
        if not root.exists():
            root.mkdir()
            for number in range(-(-count // len(paths)) * len(paths)):
                path = paths[number % len(paths)]
                _, volume, rest = path.name.split("_", 2)
                again = int(volume) + 1000 * (number // len(paths))
                os.link(path, root / f"volume_{again}_{rest}")
        return open_source("brats-h5", root)

    @cached_property
    def volumes(self) -> Source:
        """Gzipped int16 NIfTI volumes of BraTS names: three phantoms, and links to them."""
        from seglab.data.phantom.patient import make_patient
        from seglab.data.phantom.write import write_nifti

        root, count = self.scratch / "volumes", self.count(60, least=2)
        for number in range(1, count + 1):
            name, like = f"BraTS20_Training_{number:03d}", f"BraTS20_Training_{1 + number % 3:03d}"
            if number <= 3:
                made = make_patient(0, number, size=self.size, slices=self.count(155))
                write_nifti(root / name, name, made)
                continue
            (root / name).mkdir()
            for path in (root / like).iterdir():
                os.link(path, root / name / path.name.replace(like, name))
        return open_source("brats-nifti", root)

    def config(self, *overrides: Mapping[str, Any]) -> RunConfig:
        """``experiments/baseline.yaml`` on the phantoms and this device, changed as said."""
        document = {k: v for k, v in read_document(BASELINE).items() if k not in STUDY_KEYS}
        cache = {"source": "brats-h5", "root": str(self.phantoms), "cache": f"{self.scratch}/cache"}
        train = {"device": self.device, "samples_per_epoch": self.count(480)}
        for layer in ({"name": "bench", "data": cache, "train": train}, *overrides):
            document = merge(document, layer)
        return build_run(document)


def in_turn(
    contestants: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each contestant, by round, so that other load on the machine hits all alike.

    The order is reversed with every round.
    """
    order = list(contestants.items())
    for _, call in order if warm_up else ():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, call in order if number % 2 == 0 else order[::-1]:
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def compare(count: float, ours: list[float], theirs: list[float]) -> Measurement:
    """Turn seconds for ``count`` items into rates; the ratio is the median over rounds."""
    ratios = [their / own for own, their in zip(ours, theirs, strict=True)]
    rates = count / statistics.median(ours), count / statistics.median(theirs)
    return Measurement(*rates, statistics.median(ratios))


_made: list[Callable[[], Any]] = []


def _make(make: Callable[[], Callable[[], Any]]) -> None:
    # Set when seglab is imported, read when torch is, which is later: not the reference's.
    os.environ.pop("OMP_WAIT_POLICY", None)
    multiprocessing.set_start_method(None, force=True)
    _made.append(make())


def _call() -> Any:
    return _made[-1]()


@contextmanager
def in_process(make: Callable[[], Callable[[], Any]]) -> Iterator[Callable[[], Any]]:
    """Yield a call of what ``make`` returns, made and called in another process.

    The process settings of seglab must not speed a reference up.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as process:
        process.submit(_make, make).result()
        yield lambda: process.submit(_call).result()


def with_split(measured: Measurement, call: Callable[[], object]) -> Measurement:
    """Add where the time of a call goes, from its thread's stack every 4 ms."""
    seconds: defaultdict[str, float] = defaultdict(float)
    ended, watched = threading.Event(), threading.get_ident()

    def watch() -> None:
        last = time.perf_counter()
        while not ended.wait(0.004):
            part, now = _part(sys._current_frames()[watched]), time.perf_counter()
            seconds[part] += now - last
            last = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        ended.set()
        watcher.join()
    return replace(measured, split=dict(seconds))


def _part(frame: FrameType | None) -> str:
    paths = []
    while frame is not None:
        paths.append(frame.f_code.co_filename)
        frame = frame.f_back
    parts = (part for file, part in PARTS if any(file in path for path in paths))
    return next(parts, "the rest")
