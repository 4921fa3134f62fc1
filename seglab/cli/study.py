"""Commands on runs that are trained: compare, promote, predict, report, reproduce, look."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seglab.cli.shell import DONE, USER_ERROR, answer, print_text, table
from seglab.tracking import open_store, tags

if TYPE_CHECKING:
    from seglab.studies.candidates import Candidates
    from seglab.studies.prediction import Predicted
    from seglab.studies.promotion import Promotion

CANDIDATES_SHOWN = 10
FILES_SHOWN = 4
"""Files that are named as seen; the JSON names all."""
DEMO = (
    "seglab data phantom --out data/phantoms --patients 24 --size 96 --slices 40",
    "run_experiment.py experiments/demo.yaml",
    "sweep.py experiments/sweeps/demo.yaml",
    "seglab promote demo",
    "seglab report demo",
)


def compare(given: argparse.Namespace) -> int:
    """Compare the arms of an ablation."""
    from seglab.studies.report.page import report_ablation
    from seglab.studies.results import find_ablation

    store = open_store()
    parent = find_ablation(store, given.experiment)
    written = report_ablation(store, parent, baseline=given.baseline, out=given.out)
    assert written.result is not None
    values = {**written.result.to_json(), "report": written.page}
    answer(given, values, f"{written.text()}\n\nreport: {written.page}")
    return DONE


def report(given: argparse.Namespace) -> int:
    """Write the page of a whole experiment."""
    from seglab.studies.report.page import SECTIONS, report_experiment

    page = report_experiment(open_store(), given.experiment, given.out).page
    values = {"experiment": given.experiment, "report": page, "sections": SECTIONS}
    answer(given, values, f"report: {page}")
    return DONE


def promote(given: argparse.Namespace) -> int:
    """Freeze on validation, open the sealed test once, register the champion."""
    from seglab.studies.promotion import promote

    def tell(candidates: Candidates) -> None:
        print(leaderboard(candidates), file=sys.stderr)
        print(f"promoting: {candidates.reason}", file=sys.stderr)

    promotion = promote(
        open_store(),
        given.name,
        reopen=given.reopen,
        baseline=given.baseline,
        overrides=given.overrides,
        tell=tell,
    )
    answer(given, promotion.to_json(), _describe_promotion(promotion))
    return DONE


def leaderboard(candidates: Candidates) -> str:
    """List the best finished runs, best first."""
    rows = [
        {
            "candidate": run.name,
            "run": run.run_id[:8],
            "val Dice": run.metrics["val/dice"],
            "out of fold": candidates.out_of_fold.get(run.run_id),
        }
        for run in candidates.ranked[:CANDIDATES_SHOWN]
    ]
    more = len(candidates.ranked) - len(rows)
    return table(rows) + (f"\nand {more} more" if more else "")


def _describe_promotion(promotion: Promotion) -> str:
    from seglab.studies.promotion_outputs import results_json
    from seglab.studies.report.sections import test_text

    page = test_text(results_json(promotion.results, promotion.opened))
    point = promotion.point
    setting = (
        f"threshold {point.threshold:g}, components from {point.smallest_component_px} px, "
        f"holes {'filled' if point.fill_holes else 'kept'}, "
        f"{'with' if point.mirror else 'without'} mirroring"
    )
    return (
        f"{page}\nfrozen on validation: {setting}\n"
        f"registered: {promotion.model_uri} (version {promotion.registered.version})\n"
        f"ONNX: {promotion.onnx}\n"
        f"promotion run {promotion.run_id}; look: make ui"
    )


def predict(given: argparse.Namespace) -> int:
    """Write masks, pictures and volumes of new scans."""
    from seglab.studies.prediction import predict
    from seglab.studies.resolve import open_model

    found = predict(open_model(given.model, open_store), given.inputs, given.out)
    answer(given, found.to_json(), "\n".join(map(_describe_scan, found.outputs)))
    for path, reason in found.failed:
        print(f"error: {path}: {reason.removeprefix(f'{path} ')}", file=sys.stderr)
    return USER_ERROR if found.failed else DONE


def _describe_scan(one: Predicted) -> str:
    ml = "volume unknown" if one.volume_ml is None else f"{one.volume_ml:.1f} ml"
    warnings = "".join(f"\n  warning: {text}" for text in one.warnings)
    seen = ", ".join(path.name for path in one.seen[:FILES_SHOWN])
    seen += f" and {len(one.seen) - FILES_SHOWN} more" if len(one.seen) > FILES_SHOWN else ""
    return f"{one.mask}: {ml}{warnings}" + (f"\n  seen, not predicted: {seen}" if seen else "")


def reproduce(given: argparse.Namespace) -> int:
    """Train a run again and compare."""
    from seglab.studies.reproduce import reproduce

    def tell(environment: Sequence[str]) -> None:
        if environment:
            print("warning: this is not as it was, so the result may differ:", file=sys.stderr)
        for text in environment:
            print(f"environment: {text}", file=sys.stderr)

    found = reproduce(open_store(), given.run, given.overrides, tell)
    lines = [f"run {found.new_run_id} is equal to {found.run_id} to the bit"]
    if not found.equal:
        lines = [f"run {found.new_run_id} differs from {found.run_id}:", *found.differences]
    answer(given, found.to_json(), "\n  ".join(lines))
    return DONE


def artifacts(given: argparse.Namespace) -> int:
    """Download what a run logged."""
    from seglab.tracking import download

    report = download(open_store(), given.run, given.out, given.pattern)
    text = f"{given.out}: {len(report.files)} files, {report.bytes / 1e6:.1f} MB"
    answer(given, vars(report), text)
    return DONE


def ui(given: argparse.Namespace) -> int:
    """Serve the MLflow UI."""
    from seglab.tracking import serve_ui

    return serve_ui(open_store(), given.host, given.port)


def demo(given: argparse.Namespace) -> int:
    """Go through everything on phantoms, in minutes, without account or download."""
    from seglab.cli import main, train
    from seglab.core.machine import available_cores

    programs = {"seglab": main.main, "run_experiment.py": train.main, "sweep.py": train.sweep}
    started = time.perf_counter()
    for number, line in enumerate(DEMO, start=1):
        print(f"\n=== {number}/{len(DEMO)} {line}", file=sys.stderr)
        program, *argv = line.split()
        if argv[0] == "promote" and _was_promoted(argv[1]):
            continue
        workers = [] if program == "seglab" else ["--workers", str(min(2, available_cores()))]
        status = programs[program]([*argv, *workers])
        if status != DONE:
            return status
    print_text(f"\nThe demo took {time.perf_counter() - started:.0f} s. Look at it: make ui")
    return DONE


def _was_promoted(experiment: str) -> bool:
    """Whether an earlier demo opened the sealed test, which opens once; says what came of it."""
    ended = open_store().find_runs(experiment, {tags.KIND: "promotion"}, ["FINISHED"])
    for promotion in ended[:1]:
        print(
            f"promotion {promotion.run_id} opened the sealed test before: test Dice "
            f"{promotion.metrics.get('test/dice', math.nan):.4f}. It opens once",
            file=sys.stderr,
        )
    return bool(ended)
