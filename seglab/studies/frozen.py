"""A frozen model on patients who had no part in its making: scored, explained, logged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from seglab.core.documents import finite
from seglab.core.errors import as_warning
from seglab.core.machine import tell
from seglab.data.cache import Cache, CachedPatient
from seglab.evaluation.comparison import Comparison, as_shown, compare_arms
from seglab.evaluation.failures import Explanation, explain
from seglab.evaluation.metrics import Case, PatientScore
from seglab.evaluation.scores import (
    CAVEAT,
    FEWEST_WITH_INTERVAL,
    PUBLISHED,
    SIZES,
    Interval,
    calibration,
    in_question,
    interval,
    intervals,
    reliability,
    slice_dice,
    stratify,
    summarise,
    to_csv,
)
from seglab.figures.curves import calibration_plot, patient_plot, slice_position_plot
from seglab.figures.style import marked
from seglab.learning.bundle import ModelBundle
from seglab.learning.inference import build_case, score
from seglab.learning.operating_point import PLAIN
from seglab.studies.outputs import CASES_IN_MEMORY, Cases, write_pictures
from seglab.tracking.run import RunLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROMOTED, BASELINE = "promoted", "baseline"


@dataclass(frozen=True)
class ScoredPatient:
    """One patient, predicted once."""

    frozen: PatientScore
    plain: PatientScore
    explanation: Explanation
    """Why the frozen setting loses what it loses."""
    reliability: NDArray[np.float64]
    slices: NDArray[np.float64]


def predict_patient(bundle: ModelBundle, cache: Cache, patient: CachedPatient) -> Case:
    """Predict a patient; keep all that a picture or an explanation needs."""
    return build_case(cache, patient, *bundle.native(cache, patient))


def evaluate_patient(bundle: ModelBundle, cache: Cache, patient: CachedPatient) -> ScoredPatient:
    """Predict, score and explain a patient."""
    probability, mask, spread = bundle.native(cache, patient)
    case, order = build_case(cache, patient, probability, mask, spread), patient.slice_indices
    direct = bundle.predictor.native(cache, patient) if bundle.card.point.mirror else probability
    return ScoredPatient(
        frozen=case.score,
        plain=score(cache, patient, PLAIN.apply(direct, order)),
        explanation=explain(case),
        reliability=reliability(
            probability, case.truth, in_question(case.image > 0, case.truth, case.prediction)
        ),
        slices=slice_dice(case.prediction, case.truth, order, patient.stack_size),
    )


@dataclass(frozen=True)
class FrozenResults:
    """All that patients say of a frozen model who had no part in its making."""

    patients: Sequence[ScoredPatient]
    baseline: Sequence[PatientScore] | None
    """Under the baseline's own operating point, frozen on validation like the promoted one's."""
    notice: str
    """What must be said of the data: that they are synthetic."""

    @property
    def scores(self) -> list[PatientScore]:
        """At the frozen setting."""
        return [patient.frozen for patient in self.patients]

    @property
    def plain_scores(self) -> list[PatientScore]:
        """At the plain 0.5 threshold."""
        return [patient.plain for patient in self.patients]

    @cached_property
    def frozen(self) -> dict[str, Interval]:
        """Every figure at the frozen setting."""
        return intervals(self.scores)

    @cached_property
    def plain(self) -> dict[str, Interval]:
        """Every figure at the plain 0.5 threshold."""
        return intervals(self.plain_scores)

    @cached_property
    def reliability(self) -> NDArray[np.float64]:
        """Pixels in question of all patients by probability, for :func:`calibration`."""
        pooled: NDArray[np.float64] = np.sum([one.reliability for one in self.patients], axis=0)
        return pooled

    @property
    def strata(self) -> list[dict[str, Any]]:
        """Dice of the thirds by tumour size, in pixels and ml; empty ones are left out."""
        sizes = stratify([score.truth_px for score in self.scores])
        found = []
        for size in SIZES:
            here = [s for s, name in zip(self.scores, sizes, strict=True) if name == size]
            if here:
                pixels, ml = [s.truth_px for s in here], [s.truth_ml for s in here]
                one = {
                    "name": size,
                    "smallest": min(pixels),
                    "largest": max(pixels),
                    "smallest_ml": min(ml),
                    "largest_ml": max(ml),
                    "dice": vars(interval([(s.dice, 1.0) for s in here], 1.0)),
                }
                found.append(one)
        return found

    @cached_property
    def against_baseline(self) -> Comparison | None:
        """Paired comparison of the promoted run with the baseline; None without one."""
        if self.baseline is None:
            return None
        arms = {
            arm: pd.DataFrame([{score.patient_id: score.dice for score in scores}])
            for arm, scores in ((BASELINE, self.baseline), (PROMOTED, self.scores))
        }
        return compare_arms(arms, BASELINE)

    def metrics(self, part: str) -> dict[str, float]:
        """The names of training under ``part``, ``test`` or ``external``.

        With the intervals and p that so many patients carry.
        """
        found = {f"{part}/{name}": value for name, value in summarise(self.scores).items()}
        for prefix, figures in ((part, self.frozen), (f"{part}_plain", self.plain)):
            for name, figure in figures.items():
                key = f"{prefix}/{name}"
                found[key] = figure.value
                if figure.patients >= FEWEST_WITH_INTERVAL:
                    found |= {f"{key}_ci_low": figure.low, f"{key}_ci_high": figure.high}
        found[f"{part}/calibration_error"] = calibration(self.reliability)[2]
        if self.baseline is not None:
            summary = summarise(self.baseline)
            found |= {f"{part}_baseline/{name}": summary[name] for name in ("dice", "iou")}
        for row in as_shown(self.against_baseline).rows if self.against_baseline else ():
            for name in ("diff", "ci_low", "ci_high", "p", "p_wilcoxon"):
                found[f"{part}_vs_baseline/{name}"] = float(getattr(row, name))
        return found

    def to_json(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """All figures after ``about``, with None for what is not finite."""
        comparison = self.against_baseline
        content = {
            **about,
            "patients": len(self.patients),
            "frozen": {name: vars(figure) for name, figure in self.frozen.items()},
            "plain": {name: vars(figure) for name, figure in self.plain.items()},
            "strata": self.strata,
            "calibration_error": calibration(self.reliability)[2],
            "against_baseline": vars(comparison.rows[0]) if comparison else None,
            "published": PUBLISHED,
            "caveat": CAVEAT,
        }
        return dict(finite(content))


def log_results(
    log: RunLog,
    results: FrozenResults,
    part: str,
    about: Mapping[str, Any],
    case: Cases,
    title: str,
    overlays: int = 3,
) -> None:
    """Log every figure, with its interval, and the tables and pictures behind them.

    ``part``, ``test`` or ``external``, is in the names of metrics and files; ``about`` is what
    else the JSON says; ``case`` predicts a patient by its name, for overlays and the gallery.
    """
    tell("drawing pictures and the gallery")
    log.metrics(results.metrics(part), step=0)
    log.json(results.to_json(about), f"{part}_results.json")
    tables = {part: results.scores, f"{part}_plain": results.plain_scores}
    if results.baseline is not None:
        tables[f"{part}_baseline"] = list(results.baseline)
    for name, scores in tables.items():
        log.text(to_csv(scores), f"patients_{name}.csv")
    slices = [patient.slices for patient in results.patients]
    figures: dict[str, Callable[[], Figure]] = {
        "patients.png": lambda: patient_plot(results.scores),
        "calibration.png": lambda: calibration_plot(results.reliability),
        "slice_position.png": lambda: slice_position_plot(slices),
    }
    for name, draw in figures.items():
        with as_warning(f"figures/{name} is not drawn"):
            log.figure(marked(draw(), results.notice), f"figures/{name}")
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        write_pictures(
            Path(folder),
            lru_cache(CASES_IN_MEMORY)(case),
            [patient.explanation for patient in results.patients],
            title=title,
            overlays=overlays,
            notice=results.notice,
        )
        log.artifact(Path(folder))
