"""Promotion: freeze a run on validation, open the sealed test once, register the champion."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from seglab.core.config import flatten
from seglab.core.errors import UserError
from seglab.data.splits import save_split
from seglab.learning.operating_point import OperatingPoint, Selection, select_operating_point
from seglab.studies.candidates import Candidates, find_baseline, find_candidates
from seglab.studies.onnx_export import ONNX, log_onnx
from seglab.studies.promotion_begun import find_begun, identity_tags
from seglab.studies.promotion_outputs import log_pictures, log_results
from seglab.studies.resolve import TrainedRun, load_trained
from seglab.studies.seal import OpenedTest, check_sealed, open_test
from seglab.studies.testing import FrozenRun, SealedResults, evaluate_baseline, evaluate_test
from seglab.tracking import RunInfo, RunLog, Store, environment_tags, resume_run, start_run, tags
from seglab.tracking.registry import CHAMPION, Registered, register_champion
from seglab.tracking.tags import PROMOTED_RUN

INHERITED = (
    tags.ARM, tags.SEED, tags.CONFIG_HASH, tags.DATA_HASH, tags.SPLIT_HASH,
)  # fmt: skip
POINT = tags.OPERATING_POINT


@dataclass(frozen=True)
class Frozen:
    """A run and the operating point that validation selected for it."""

    trained: TrainedRun
    selection: Selection

    @property
    def point(self) -> OperatingPoint:
        """What is frozen."""
        return self.selection.selected.point

    def facing(self, opened: OpenedTest) -> FrozenRun:
        """Return the run at that setting, with the opened patients in reach."""
        data = opened.unseal(self.trained.data)
        return FrozenRun(replace(self.trained, data=data), self.point)


@dataclass(frozen=True)
class Promotion:
    """What a promotion came to."""

    run_id: str
    candidates: Candidates
    point: OperatingPoint
    opened: OpenedTest
    results: SealedResults
    registered: Registered
    onnx: str
    """How the ONNX file compares with the model, or why there is none."""

    @property
    def model_uri(self) -> str:
        """As ``mlflow.pyfunc.load_model`` takes it."""
        return f"models:/{self.registered.name}@{CHAMPION}"

    def to_json(self) -> dict[str, Any]:
        """The keys of ``promote --json``."""
        figures = self.results.frozen
        return {
            "run_id": self.run_id,
            "promoted_run_id": self.candidates.best.run_id,
            "why": self.candidates.reason,
            "model_uri": self.model_uri,
            "model_version": self.registered.version,
            "confirmatory": self.opened.confirmatory,
            "openings_before": self.opened.openings_before,
            "patients_seen_before": self.opened.seen_before,
            "operating_point": self.point.to_dict(),
            "onnx": self.onnx,
            **{f"test/{name}": figure.value for name, figure in figures.items()},
            **{f"test/{name}_ci": [figure.low, figure.high] for name, figure in figures.items()},
            "test_plain/dice": self.results.plain["dice"].value,
            "test_patients": len(self.results.patients),
        }


def promote(
    store: Store,
    name: str,
    *,
    reopen: str | None = None,
    baseline: str | None = None,
    overrides: Sequence[str] = (),
    tell: Callable[[Candidates], None] = lambda _: None,
) -> Promotion:
    """Promote the best finished run that ``name`` stands for.

    Args:
        store: where the runs are, and the record of openings.
        name: experiment, ablation, search or run.
        reopen: why the test is opened again, where it was.
        baseline: run id to compare with under the same seal; None takes the run of the
            ablation's baseline arm or of the search's base config, if there is one.
        overrides: ``key=value`` for paths and devices of this machine.
        tell: called with the candidates before any work is done.

    Raises:
        UserError: no finished run, other data than it was trained on, or a test part that
            cannot be opened; see :mod:`seglab.studies.seal`.
    """
    candidates = find_candidates(store, name)
    tell(candidates)
    best = candidates.best
    trained = load_trained(store, best, overrides)
    rival = _load_baseline(store, best, baseline, trained, overrides)
    begun = find_begun(store, best, rival.run if rival else None, reopen)
    check_sealed(store, trained.data, reopen, begun)
    frozen = freeze(trained)
    frozen_rival = None if rival is None else freeze(rival)
    with _open(store, candidates, frozen, frozen_rival, reopen, begun) as log:
        _log_frozen(log, candidates, frozen, frozen_rival)
        return _judge(store, log, candidates, frozen, frozen_rival, reopen)


def _judge(
    store: Store,
    log: RunLog,
    candidates: Candidates,
    frozen: Frozen,
    rival: Frozen | None,
    reopen: str | None,
) -> Promotion:
    """Open the test, evaluate, register; all that is chosen is on record before."""
    trained = frozen.trained
    bundle = trained.bundle(frozen.point)
    # What can go wrong with the model itself does so while the test is sealed.
    onnx = log_onnx(log, bundle, trained.data)
    opened = open_test(store, log, trained.data, reopen)
    results = _evaluate(frozen, rival, opened)
    log_results(log, results, opened)
    log_pictures(log, frozen.facing(opened), results)
    version_tags = _version_tags(frozen, opened, results) | {ONNX: onnx}
    registered = register_champion(
        store,
        log,
        bundle,
        example_images(len(bundle.card.modalities)),
        bundle.card.name,
        version_tags,
    )
    return Promotion(log.run_id, candidates, frozen.point, opened, results, registered, onnx)


def freeze(trained: TrainedRun) -> Frozen:
    """Choose a run's operating point on its validation patients."""
    data = trained.data
    return Frozen(trained, select_operating_point(trained.predictor, data.cache, data.split.val))


def _load_baseline(
    store: Store, best: RunInfo, given: str | None, trained: TrainedRun, overrides: Sequence[str]
) -> TrainedRun | None:
    run = find_baseline(store, best) if given is None else store.find_run(given)
    if run is None or run.run_id == best.run_id:
        return None
    rival = load_trained(store, run, overrides)
    if rival.data.split.hash != trained.data.split.hash:
        raise UserError(f"baseline run {run.run_id} was trained on another split: not comparable")
    return rival


def _open(
    store: Store,
    candidates: Candidates,
    frozen: Frozen,
    rival: Frozen | None,
    reopen: str | None,
    begun: RunInfo | None,
) -> RunLog:
    """Go on with the promotion that was begun, or start one.

    Its tags, the record, are in the store when it exists. One that froze something else
    is not continued: its opening was of another question.
    """
    point = json.dumps(frozen.point.to_dict())
    if begun is not None and begun.tags.get(POINT) == point:
        return resume_run(store, begun.run_id)
    best = candidates.best
    own_tags = {
        **environment_tags(),
        **{key: best.tags[key] for key in INHERITED if key in best.tags},
        **identity_tags(best, rival.trained.run if rival else None, reopen),
        tags.PROMOTED_GIT_COMMIT: best.tags.get(tags.GIT_COMMIT),
        POINT: point,
        tags.DEVICE: str(frozen.trained.predictor.compute.device),
        tags.PRECISION: frozen.trained.predictor.compute.precision,
        tags.NOTE: candidates.reason,
    }
    config = frozen.trained.config
    return start_run(store, config.name, f"promotion of {best.name}", own_tags)


def _log_frozen(log: RunLog, candidates: Candidates, frozen: Frozen, rival: Frozen | None) -> None:
    config = frozen.trained.config
    log.params(flatten(config.to_dict()) | flatten({"operating_point": frozen.point.to_dict()}))
    log.json(candidates.to_json(), "candidates.json")
    log.json(frozen.selection.to_json(), "operating_point.json")
    if rival is not None:
        log.json(rival.selection.to_json(), "operating_point_baseline.json")
    document = yaml.safe_dump(config.to_dict(), sort_keys=False)
    log.text("# python run_experiment.py config.yaml\n" + document, "config.yaml")
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        path = Path(folder) / "split.json"
        save_split(frozen.trained.data.split, path)
        log.artifact(path)
    cache = frozen.trained.data.cache
    log.dataset(
        name=cache.source,
        digest=cache.data_hash,
        source=f"{cache.source}:{config.data.root.name}",
        context="test",
        profile={"patients": len(cache.patients), "slices": cache.slices},
    )


def _evaluate(frozen: Frozen, rival: Frozen | None, opened: OpenedTest) -> SealedResults:
    patients = evaluate_test(frozen.facing(opened), opened.patients)
    scores = None if rival is None else evaluate_baseline(rival.facing(opened), opened.patients)
    return SealedResults(patients, scores)


def _version_tags(frozen: Frozen, opened: OpenedTest, results: SealedResults) -> dict[str, str]:
    dice = results.frozen["dice"]
    return {
        tags.CONFIRMATORY: str(opened.confirmatory).lower(),
        PROMOTED_RUN: frozen.trained.run.run_id,
        tags.SPLIT_HASH: frozen.trained.data.split.hash,
        "test/dice": "unknown" if math.isnan(dice.value) else f"{dice.value:.4f}",
    }


def example_images(modalities: int, size: int = 64) -> NDArray[np.float32]:
    """Draw two raw slices of an ellipse, which show the form of what a model takes.

    Returns:
        (2, size, size) for one modality, else (modalities, 2, size, size).
    """
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    brain = (x / 0.7) ** 2 + (y / 0.85) ** 2 < 1
    texture = 300 + 40 * np.cos(9 * x) * np.cos(7 * y)
    lesion = (x - 0.3) ** 2 + (y + 0.2) ** 2 < 0.03
    slice_ = np.where(brain, texture + 250 * lesion, 0).astype(np.float32)
    stack = np.stack([slice_, slice_])
    return stack if modalities == 1 else np.stack([stack] * modalities)
