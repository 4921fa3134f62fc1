"""What a promotion leaves in its run: figures of the test, tables, pictures, a page of text."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.core.documents import finite
from seglab.core.errors import as_warning
from seglab.evaluation.scores import (
    CAVEAT,
    IMPLAUSIBLE_DICE,
    PUBLISHED,
    Interval,
    calibration,
    summarise,
    write_csv,
)
from seglab.figures.sealed_test import calibration_plot, patient_plot, slice_position_plot
from seglab.studies.outputs import CASES_IN_MEMORY, write_pictures
from seglab.studies.report.document import Block, Document, Notice, Section, Table, Text
from seglab.studies.report.markdown import render_markdown
from seglab.studies.sealed_test import PROMOTED, FrozenRun, OpenedTest, SealedResults
from seglab.tracking import RunLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_INTERVAL = "too few patients: no interval"
NOT_CONFIRMATORY = (
    "Patients of this test part were in a test that was opened before. What follows is not "
    "confirmatory: choices may have been made with these patients in view."
)


def log_results(log: RunLog, results: SealedResults, opened: OpenedTest) -> None:
    """Log every figure of the test, with its interval, and the tables and pictures behind them."""
    log.metrics(sealed_metrics(results), step=0)
    log.json(results_json(results, opened), "test_results.json")
    log.text(render_markdown(sealed_document(results, opened)), "test_results.md")
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
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        for name, draw in figures.items():
            with as_warning(f"figures/{name} is not drawn"):
                draw().savefig(Path(folder) / name, dpi=100)
        log.artifact(Path(folder), "figures")


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
        )
        log.artifact(Path(folder))


def sealed_metrics(results: SealedResults) -> dict[str, float]:
    """Metrics of the promotion run: the names of training under ``test/``, with intervals."""
    found = {f"test/{name}": value for name, value in summarise(results.scores).items()}
    found |= _with_bounds("test", results.frozen)
    found |= _with_bounds("test_plain", results.plain)
    found["test/calibration_error"] = calibration(results.reliability)[2]
    if results.baseline is not None:
        summary = summarise(results.baseline)
        found |= {f"test_baseline/{name}": summary[name] for name in ("dice", "iou")}
    comparison = results.against_baseline
    for row in comparison.rows if comparison else ():
        for name in ("diff", "ci_low", "ci_high", "p", "p_wilcoxon"):
            found[f"test_vs_baseline/{name}"] = float(getattr(row, name))
    return found


def _with_bounds(prefix: str, figures: Mapping[str, Interval]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, figure in figures.items():
        found[f"{prefix}/{name}"] = figure.value
        found[f"{prefix}/{name}_ci_low"] = figure.low
        found[f"{prefix}/{name}_ci_high"] = figure.high
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


def sealed_document(results: SealedResults, opened: OpenedTest) -> Document:
    """The figures of the test as a page."""
    blocks: list[Block] = [] if opened.confirmatory else [Notice(NOT_CONFIRMATORY)]
    dice = results.frozen["dice"]
    blocks.append(
        Text(
            f"{len(results.patients)} test patients, {dice.patients} with tumour: "
            f"Dice {interval_text(dice)}, 95 % interval over patients."
        )
    )
    if dice.value > IMPLAUSIBLE_DICE:
        blocks.append(
            Notice(
                f"A Dice above {IMPLAUSIBLE_DICE} from FLAIR slices alone is more than others "
                "reach: look for a leak before believing it. (Synthetic patients are easier.)"
            )
        )
    sections = [
        Section("Figures", [_figures_table(results)]),
        Section("By tumour size", [_strata_table(results)]),
        *_baseline_section(results),
        Section("Beside published figures", [_published_table(dice), Text(CAVEAT)]),
    ]
    footer = f"sealed test {opened.test_hash}, opened {opened.openings_before + 1} time(s)"
    return Document("Sealed test", blocks, sections, footer)


def _figures_table(results: SealedResults) -> Table:
    rows = [
        [name, interval_text(results.frozen[name]), interval_text(results.plain[name])]
        for name in results.frozen
    ]
    note = "dice_slice_empty1 counts an empty slice left empty as 1: inflated, for comparison."
    return Table(["figure", "at the frozen setting", "at plain 0.5"], rows, note)


def _strata_table(results: SealedResults) -> Table:
    rows = [
        [
            stratum.name,
            f"{stratum.smallest:,.0f} to {stratum.largest:,.0f}",
            str(stratum.dice.patients),
            interval_text(stratum.dice),
        ]
        for stratum in results.strata
    ]
    return Table(["tumours", "pixels", "patients", "Dice"], rows)


def _baseline_section(results: SealedResults) -> list[Section]:
    comparison = results.against_baseline
    if comparison is None:
        return []
    row, base = comparison.rows[0], comparison.baseline
    table = Table(
        ["run", "Dice", "difference", "95 % interval", "p", "verdict"],
        [
            [base.arm, f"{base.mean:.4f}", "", "", "", ""],
            [
                PROMOTED, f"{row.mean:.4f}", f"{row.diff:+.4f}",
                _limits(row.ci_low, row.ci_high), f"{row.p:.3g}", row.verdict,
            ],
        ],
        "Paired over patients; each run at its own frozen setting.",
    )  # fmt: skip
    return [Section("Against the baseline", [table])]


def _limits(low: float, high: float) -> str:
    return NO_INTERVAL if math.isnan(low) else f"{low:+.4f} to {high:+.4f}"


def _published_table(dice: Interval) -> Table:
    rows = [["this test", interval_text(dice), ""]]
    for one in PUBLISHED:
        span = f"{one.low:.4g}" if one.low == one.high else f"{one.low:.4g} to {one.high:.4g}"
        rows.append([one.setting, span, one.source])
    return Table(["whole tumour", "Dice", "source"], rows)


def interval_text(figure: Interval) -> str:
    """``0.8123 (0.7811 to 0.8435)``; a dash where unknown."""
    if math.isnan(figure.value):
        return "–"
    if math.isnan(figure.low):
        return f"{figure.value:.4f} ({NO_INTERVAL})"
    return f"{figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})"
