"""What a promotion logs: figures of the test with their tables and pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.core.documents import finite
from seglab.core.errors import as_warning
from seglab.evaluation.scores import CAVEAT, PUBLISHED, calibration, summarise, write_csv
from seglab.figures.sealed_test import calibration_plot, patient_plot, slice_position_plot
from seglab.figures.style import marked
from seglab.studies.outputs import CASES_IN_MEMORY, write_pictures
from seglab.studies.sealed_test import FrozenRun, OpenedTest, SealedResults
from seglab.tracking import RunLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_results(log: RunLog, results: SealedResults, opened: OpenedTest, notice: str = "") -> None:
    """Log every figure of the test, with its interval, and the tables and pictures behind them.

    ``notice`` stands below the pictures.
    """
    log.metrics(sealed_metrics(results), step=0)
    log.json(results_json(results, opened), "test_results.json")
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        tables = {"test": results.scores, "test_plain": results.plain_scores}
        if results.baseline is not None:
            tables["test_baseline"] = list(results.baseline)
        for name, scores in tables.items():
            path = Path(folder) / f"patients_{name}.csv"
            write_csv(path, scores)
            log.artifact(path)
    slices = [patient.slices for patient in results.patients]
    figures: dict[str, Callable[[], Figure]] = {
        "patients.png": lambda: patient_plot(results.scores),
        "calibration.png": lambda: calibration_plot(results.reliability),
        "slice_position.png": lambda: slice_position_plot(slices),
    }
    for name, draw in figures.items():
        with as_warning(f"figures/{name} is not drawn"):
            log.figure(marked(draw(), notice), f"figures/{name}")


def log_pictures(log: RunLog, frozen: FrozenRun, results: SealedResults) -> None:
    """Log overlays and the gallery of explained test patients."""
    explanations = [patient.explanation for patient in results.patients]
    config = frozen.trained.config
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        write_pictures(
            Path(folder),
            lru_cache(CASES_IN_MEMORY)(frozen.case),
            explanations,
            title=f"{config.name}: test patients",
            overlays=config.evaluation.overlays,
            notice=frozen.trained.data.cache.notice,
        )
        log.artifact(Path(folder))


def sealed_metrics(results: SealedResults) -> dict[str, float]:
    """Metrics of the promotion run: the names of training under ``test/``, with intervals."""
    found = {f"test/{name}": value for name, value in summarise(results.scores).items()}
    for prefix, figures in (("test", results.frozen), ("test_plain", results.plain)):
        for name, figure in figures.items():
            found[f"{prefix}/{name}"] = figure.value
            found |= {
                f"{prefix}/{name}_ci_low": figure.low,
                f"{prefix}/{name}_ci_high": figure.high,
            }
    found["test/calibration_error"] = calibration(results.reliability)[2]
    if results.baseline is not None:
        summary = summarise(results.baseline)
        found |= {f"test_baseline/{name}": summary[name] for name in ("dice", "iou")}
    comparison = results.against_baseline
    for row in comparison.rows if comparison else ():
        for name in ("diff", "ci_low", "ci_high", "p", "p_wilcoxon"):
            found[f"test_vs_baseline/{name}"] = float(getattr(row, name))
    return found


def results_json(results: SealedResults, opened: OpenedTest) -> dict[str, Any]:
    """All figures of the test, for programs."""
    comparison = results.against_baseline
    row = comparison.rows[0] if comparison else None
    content = {
        "confirmatory": opened.confirmatory,
        "openings_before": opened.openings_before,
        "patients_seen_before": opened.seen_before,
        "patients": len(results.patients),
        "frozen": {name: vars(figure) for name, figure in results.frozen.items()},
        "plain": {name: vars(figure) for name, figure in results.plain.items()},
        "strata": [{**vars(s), "dice": vars(s.dice)} for s in results.strata],
        "calibration_error": calibration(results.reliability)[2],
        "against_baseline": None if row is None else vars(row),
        "published": [vars(one) for one in PUBLISHED],
        "caveat": CAVEAT,
    }
    return dict(finite(content))
