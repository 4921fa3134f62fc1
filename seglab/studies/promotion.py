"""Promotion: freeze a run on validation, open the sealed test once, register the champion.

What a promotion opens the test for is fixed before it does: run, baseline, operating point and
code. One that died in between can only come to the result it would have come to, so that the same
command continues it, and that is no second look at the test.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seglab.core.config import flatten
from seglab.core.errors import UserError, as_warning, first_line
from seglab.core.machine import progress, tell
from seglab.data.cache import Cache
from seglab.data.open import StudyData
from seglab.learning.bundle import ModelBundle
from seglab.learning.onnx import MASK_TOLERANCE, TOLERANCE, check_onnx, export_onnx
from seglab.learning.operating_point import OperatingPoint, Selection, score_points, select
from seglab.studies.candidates import Candidates, find_baseline, find_candidates
from seglab.studies.data import SharedData
from seglab.studies.ensemble import choose_members, load_ensemble, model_name
from seglab.studies.frozen import FrozenResults, evaluate_patient, log_results, predict_patient
from seglab.studies.outputs import log_setting
from seglab.studies.report.model_card import licence, log_model_card
from seglab.studies.report.outcomes import not_confirmatory, test_sentence
from seglab.studies.report.page import log_report
from seglab.studies.resolve import TrainedRun, load_trained
from seglab.studies.sealed_test import OpenedTest, check_sealed, open_test, warn_of_seen
from seglab.tracking import tags
from seglab.tracking.artifacts import CHAMPION, Registered, register_champion
from seglab.tracking.environment import code_hash
from seglab.tracking.run import RunLog, resume_run, start_run
from seglab.tracking.store import RunInfo, Store

INHERITED = (tags.ARM, tags.SEED, tags.CONFIG_HASH, tags.DATA_HASH, tags.SYNTHETIC)
LONGEST_REASON = 500


@dataclass(frozen=True)
class Promotion:
    """What a promotion came to."""

    run_id: str
    experiment: str
    candidates: Candidates
    point: OperatingPoint
    opened: OpenedTest
    results: FrozenResults
    registered: Registered
    onnx: str
    """How the ONNX file compares with the model, or why there is none."""

    @property
    def model_uri(self) -> str:
        """As ``mlflow.pyfunc.load_model`` takes it."""
        return f"models:/{self.registered.name}@{CHAMPION}"

    def to_json(self) -> dict[str, Any]:
        """The keys of ``promote --json``."""
        figures = self.results.frozen.items()
        return {
            "run_id": self.run_id,
            "promoted_run_id": self.candidates.best.run_id,
            "ensemble": [run.run_id for run in self.candidates.members],
            "why": self.candidates.reason,
            "model_uri": self.model_uri,
            "model_version": self.registered.version,
            **self.opened.to_json(),
            "operating_point": vars(self.point),
            "onnx": self.onnx,
            **{f"test/{name}": figure.value for name, figure in figures},
            **{f"test/{name}_ci": [figure.low, figure.high] for name, figure in figures},
            "test_plain/dice": self.results.plain["dice"].value,
            "test_patients": len(self.results.patients),
        }


def promote(
    store: Store,
    name: str,
    *,
    ensemble: str | None = None,
    reopen: str | None = None,
    baseline: str | None = None,
    overrides: Sequence[str] = (),
) -> Promotion:
    """Promote the best finished run of an experiment, ablation or search, or a run.

    ``ensemble``, which is ``seeds``, ``folds`` or ``top:K``, promotes the mean probability of these
    runs; ``reopen`` says why the test is opened again. ``baseline`` is the id of the run to compare
    with under the same seal; None takes :func:`find_baseline`'s, of an ensemble its best run.
    ``overrides`` are for paths and devices of this machine.

    Raises:
        UserError: no finished run, other data than it was trained on, or a test part that
            cannot be opened; see :mod:`seglab.studies.sealed_test`.
    """
    candidates = find_candidates(store, name, ensemble)
    shared = SharedData()
    if ensemble is None:
        trained = load_trained(store, candidates.best, overrides, shared)
    else:
        candidates = replace(candidates, members=choose_members(candidates, ensemble))
        trained = load_ensemble(store, candidates.members, ensemble, overrides, shared)
        baseline = baseline or candidates.best.run_id
    rival = _load_baseline(store, trained, baseline, overrides, shared)
    identity = {
        tags.KIND: "promotion",
        tags.CODE_HASH: code_hash(),
        tags.PROMOTED_RUN: trained.run.run_id,
        tags.BASELINE_RUN: None if rival is None else rival.run.run_id,
        tags.REOPEN_REASON: reopen,
        tags.ENSEMBLE: ",".join(run.run_id for run in candidates.members) or None,
    }
    begun = _find_begun(store, identity)
    own = begun.run_id if begun else ""
    check_sealed(store, trained.data, reopen, own)
    warn_of_seen(store, trained.data, own)
    tell(candidates.leaderboard())
    frozen = freeze(trained)
    frozen_rival = None if rival is None else freeze(rival)
    with _open(store, candidates, frozen, identity, begun) as log:
        _log_frozen(log, candidates, frozen, frozen_rival)
        # What can go wrong with the model itself does so while the test is sealed.
        tell("exporting the model as ONNX")
        onnx = log_onnx(log, frozen.bundle, trained.data)
        opened = open_test(store, log, trained.data, reopen)
        cache = opened.unseal(trained.data)
        results = _evaluate(frozen, cache, frozen_rival, opened)
        bundle, config, experiment = frozen.bundle, trained.config, trained.config.name
        log_results(
            log,
            results,
            "test",
            opened.to_json(),
            lambda one: predict_patient(bundle, cache, cache.by_id[one]),
            f"{experiment}: test patients",
            config.evaluation.overlays,
        )
        tell("registering the model")
        model = _register(log, frozen, opened, results, onnx)
        run = store.get_run(log.run_id)
        why, point = not_confirmatory(store, run), bundle.card.point
        log_report(log, experiment, test_sentence(run), why, candidates.reason)
        return Promotion(log.run_id, experiment, candidates, point, opened, results, model, onnx)


def _register(
    log: RunLog, frozen: FrozenRun, opened: OpenedTest, results: FrozenResults, onnx: str
) -> Registered:
    """Register the model as champion, described by its card."""
    trained, bundle, card = frozen.trained, frozen.bundle, frozen.bundle.card
    dice = results.frozen["dice"].value
    version_tags = {
        tags.CONFIRMATORY: str(opened.confirmatory).lower(),
        tags.PROMOTED_RUN: trained.run.run_id,
        tags.SPLIT_HASH: trained.split.hash,
        tags.ONNX: onnx,
        "test/dice": "unknown" if math.isnan(dice) else f"{dice:.4f}",
    }
    if trained.members:
        version_tags[tags.ENSEMBLE] = ",".join(one.run.run_id for one in trained.members)
    if card.notice:
        version_tags[tags.SYNTHETIC] = "true"
    channels = len(card.modalities)
    stack = (2, 64, 64) if card.settings.plane == "axial" else (8, 16, 16)  # others cross slices
    shape = stack if channels == 1 else (channels, *stack)
    example = np.random.default_rng(0).uniform(0, 1000, shape).astype(np.float32)
    words, about = licence(card, trained.config.data.source)[1], card.notice
    with as_warning("no model card is written"):
        about = log_model_card(log, card, trained.config.name)
    return register_champion(log.store, log, bundle, example, card.name, version_tags, about, words)


@dataclass(frozen=True)
class FrozenRun:
    """A trained run at the operating point that validation selected for it."""

    trained: TrainedRun
    selection: Selection
    bundle: ModelBundle


def freeze(trained: TrainedRun) -> FrozenRun:
    """Select the operating point on validation patients.

    Where an ensemble's members validated on different patients, each is scored by the member that
    was not trained on it.
    """
    members, scores = trained.members, dict[OperatingPoint, list[float]]()
    folds = members if trained.across_folds else (trained,)
    patients = sum(len(one.data.split.val) for one in folds)
    what = "the ensemble" if members else trained.run.name
    tell(f"choosing the operating point of {what} on {patients} validation patients")
    for one in folds:
        found = score_points(one.predictor, one.data.cache, one.data.split.val)
        for point, dice in found.items():
            scores.setdefault(point, []).extend(dice)
    selection = select(scores)
    return FrozenRun(trained, selection, trained.bundle(selection.point))


def _load_baseline(
    store: Store,
    trained: TrainedRun,
    given: str | None,
    overrides: Sequence[str],
    shared: SharedData,
) -> TrainedRun | None:
    run = find_baseline(store, trained.run) if given is None else store.find_run(given)
    if run is None or (run.run_id == trained.run.run_id and not trained.members):
        return None
    rival = load_trained(store, run, overrides, shared)
    if rival.data.split.hash != trained.data.split.hash:
        raise UserError(f"baseline run {run.run_id} was trained on another split: not comparable")
    return rival


def _find_begun(store: Store, identity: Mapping[str, str | None]) -> RunInfo | None:
    """Find the newest promotion of the same question whose process ended before it did."""
    wanted = {tag: value for tag, value in identity.items() if value is not None}
    for run in store.find_runs(tags=wanted):
        same = all(run.tags.get(tag) == value for tag, value in identity.items())
        if same and run.status != "FINISHED" and store.may_continue(run):
            store.mark_interrupted(run.run_id, "its process ended")
            return run
    return None


def _open(
    store: Store,
    candidates: Candidates,
    frozen: FrozenRun,
    identity: Mapping[str, str | None],
    begun: RunInfo | None,
) -> RunLog:
    """Continue the promotion that was begun, or start one.

    One that froze something else is not continued: its opening was of another question.
    """
    point = json.dumps(vars(frozen.selection.point))
    if begun is not None and begun.tags.get(tags.OPERATING_POINT) == point:
        return resume_run(store, begun.run_id)
    best, compute = candidates.best, frozen.trained.predictor.compute
    own_tags = {
        **{key: best.tags[key] for key in INHERITED if key in best.tags},
        **identity,
        tags.SPLIT_HASH: frozen.trained.split.hash,
        tags.PROMOTED_GIT_COMMIT: best.tags.get(tags.GIT_COMMIT),
        tags.OPERATING_POINT: point,
        tags.DEVICE: str(compute.device),
        tags.PRECISION: compute.precision,
        tags.NOTE: "\n\n".join(filter(None, (frozen.trained.data.cache.notice, candidates.reason))),
    }
    name = model_name(best, len(candidates.members))
    return start_run(store, frozen.trained.config.name, f"promotion of {name}", own_tags)


def _log_frozen(
    log: RunLog, candidates: Candidates, frozen: FrozenRun, rival: FrozenRun | None
) -> None:
    """Log all that is fixed before the test is opened."""
    trained, selection = frozen.trained, frozen.selection
    config, cache = trained.config, trained.data.cache
    log.params(flatten(config.to_dict()) | flatten({"operating_point": vars(selection.point)}))
    log.json(candidates.to_json(), "candidates.json")
    log.json(selection.to_json(), "operating_point.json")
    if rival is not None:
        log.json(rival.selection.to_json(), "operating_point_baseline.json")
    log_setting(log, config, replace(trained.data, split=trained.split), "test")
    started = time.perf_counter()
    frozen.bundle.native(cache, cache.by_id[trained.data.split.val[0]])
    metrics = {"cost/predict_seconds": time.perf_counter() - started}
    if trained.members:
        metrics["val/dice"] = selection.dice[selection.point]
    log.metrics(metrics, step=0)


def log_onnx(log: RunLog, bundle: ModelBundle, data: StudyData) -> str:
    """Log the model as an ONNX file, if that gives the same on validation patients.

    Returns how the two compare, or why there is no file; the promotion goes on without one.
    """
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            export_onnx(bundle, path)
            check = check_onnx(bundle, path, data.cache, data.split.val)
        except Exception as error:  # of any type: exporter and runtime are others'
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            found = f"none: {kind}{first_line(error)}"[:LONGEST_REASON]
        else:
            limits = {"tolerance": TOLERANCE, "mask_tolerance": MASK_TOLERANCE}
            log.json({**vars(check), "equal": check.equal, **limits}, "onnx/check.json")
            found = str(check) if check.equal else f"none: not the same model: {check}"
            if check.equal:
                log.artifact(path, "onnx")
    if found.startswith("none"):
        tell(f"warning: no ONNX file: {found.removeprefix('none: ')}")
    log.tags({tags.ONNX: found})
    return found


def _evaluate(
    frozen: FrozenRun, cache: Cache, rival: FrozenRun | None, opened: OpenedTest
) -> FrozenResults:
    """Score the opened patients of ``cache``, by the baseline too where there is one."""
    tell(f"testing {len(opened.patients)} patients")
    names = progress(opened.patients, "test", unit="patient")
    patients = [evaluate_patient(frozen.bundle, cache, cache.by_id[name]) for name in names]
    if rival is None:
        return FrozenResults(patients, None, cache.notice)
    own = opened.unseal(rival.trained.data)
    tell(f"testing {len(opened.patients)} patients with the baseline")
    names = progress(opened.patients, "baseline", unit="patient")
    scores = [predict_patient(rival.bundle, own, own.by_id[name]).score for name in names]
    return FrozenResults(patients, scores, cache.notice)
