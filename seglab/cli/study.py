"""Commands on runs that are trained: compare, promote, predict, report, reproduce, look."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seglab.cli.shell import DONE, PROGRAM, USER_ERROR, answer, print_text, table
from seglab.tracking.connect import open_store

if TYPE_CHECKING:
    from seglab.studies.prediction import Predicted
    from seglab.studies.promotion import Promotion
    from seglab.tracking.store import Store

DEMO = {
    "data phantom --out data/demo --patients 40 --size 80 --slices 32":
        "40 synthetic patients: 5 to 15 seconds",
    "run experiments/demo.yaml":
        "which of 3 arms is better? 6 runs, judged on 12 patients: 1 to 5 minutes",
    "sweep experiments/sweeps/demo.yaml":
        "a search of 8 trials; those of low Dice are pruned, the best is confirmed: 1 to 4 minutes",
    "promote demo":
        "the best run is frozen and opens the sealed test of 12 patients, once: 10 to 60 seconds",
    "report demo":
        "everything on one page: 5 to 15 seconds",
}  # fmt: skip
"""Command → what it is for, and how long it takes on two cores, idle to busy."""
NEXT = f"""\
Your own data, here Kaggle's slices of BraTS 2020 (`{PROGRAM} list sources` names the others):
  {PROGRAM} run experiments/baseline.yaml data.root=path/to/your/data
Look at the runs:
  {PROGRAM} ui"""
NEXT_OF_MAKE = NEXT.replace(f"{PROGRAM} ui", "make ui").replace(
    f"  {PROGRAM} run", f"  . .venv/bin/activate\n  {PROGRAM} run"
)
"""Make uses the environment itself; other commands need it to be activated."""


def compare(given: argparse.Namespace) -> int:
    """Compare the arms of an ablation."""
    from seglab.studies.comparison import compare_ablation
    from seglab.studies.report.page import report_experiment
    from seglab.studies.report.sections import verdict_text
    from seglab.studies.results import collect, find_parent

    store = open_store()
    ablation = collect(store, find_parent(store, given.experiment, "ablation"))
    result = compare_ablation(ablation, given.baseline)
    page = report_experiment(store, ablation.experiment, result, given.out)
    values = {**result.to_json(), "report": page}
    return answer(given, values, f"{verdict_text(result)}\n\nreport: {page}")


def report(given: argparse.Namespace) -> int:
    """Write the page of a whole experiment."""
    from seglab.studies.report.page import SECTIONS, report_experiment

    page = report_experiment(open_store(), given.experiment, out=given.out, author=given.author)
    values = {"experiment": given.experiment, "report": page, "sections": SECTIONS}
    return answer(given, values, f"report: {page}")


def promote(given: argparse.Namespace) -> int:
    """Freeze on validation, open the sealed test once, register the champion."""
    from seglab.studies.promotion import promote

    store = open_store()
    promotion = promote(
        store,
        given.name,
        ensemble=given.ensemble,
        reopen=given.reopen,
        baseline=given.baseline,
        overrides=given.overrides,
    )
    return answer(given, promotion.to_json(), describe_promotion(store, promotion))


def describe_promotion(store: Store, promotion: Promotion) -> str:
    """What a promotion came to, for a person."""
    from seglab.studies.report.outcomes import not_confirmatory, rival, test_sentence
    from seglab.studies.report.sections import figure
    from seglab.studies.report.tables import difference

    results, point = promotion.results, promotion.point
    run = store.get_run(promotion.run_id)
    lines = [f"{test_sentence(run)} {not_confirmatory(store, run)}".strip()]
    lines.append(f"test IoU: {figure(vars(results.frozen['iou']))}")
    if compared := results.against_baseline:
        row = compared.rows[0]
        lines.append(f"against {rival(run)}: {row.verdict}, difference in Dice {difference(row)}")
        lines += [f"warning: {text}" for text in compared.warnings]
    smallest = point.smallest_component_px
    kept = f"components below {smallest} pixels dropped" if smallest else "all components kept"
    lines += [
        f"frozen on validation: threshold {point.threshold:g}, {kept}, "
        f"holes {'filled' if point.fill_holes else 'kept'}, "
        f"{'with' if point.mirror else 'without'} mirroring",
        f"registered: {promotion.model_uri} (version {promotion.registered.version})",
        f"ONNX: {promotion.onnx}",
        f"promotion run {promotion.run_id}; look: {PROGRAM} ui",
        f"next: {PROGRAM} report {shlex.quote(promotion.experiment)}",
    ]
    return "\n".join(lines)


def evaluate(given: argparse.Namespace) -> int:
    """Score a frozen model on another data set."""
    from seglab.studies.evaluation import evaluate
    from seglab.studies.report.outcomes import external_sentence, external_warnings

    store = open_store()
    files = {name: getattr(given, name) for name in ("source", "root", "labels", "persons")}
    found = evaluate(
        store, given.model, files, leave_out=given.leave_out, overrides=given.overrides
    )
    lines = [f"left out: {name}: {reason}" for name, reason in found["left_out"].items()]
    lines += external_warnings(found["warnings"], found["patients"])
    run = store.get_run(found["run_id"])
    lines += [external_sentence(run), f"evaluation run {run.run_id}; look: {PROGRAM} ui"]
    experiment = store.experiments()[run.experiment_id]
    lines.append(f"next: {PROGRAM} report {shlex.quote(experiment)}")
    return answer(given, found, "\n".join(lines))


def predict(given: argparse.Namespace) -> int:
    """Write masks, pictures and volumes of new scans."""
    from seglab.data.prepare import some_names
    from seglab.studies.prediction import TABLE, predict
    from seglab.studies.resolve import open_model, split_parts

    bundle = open_model(given.model, open_store)
    parts = split_parts(given.model, open_store)
    if not parts:
        print("warning: which patients trained the model is not on record here", file=sys.stderr)
    found = predict(bundle, given.inputs, given.out, parts)
    text = _describe_predictions(found.outputs) + f"\n{given.out / TABLE}"
    answer(given, found.to_json(), text if found.outputs else "no mask was written")
    if found.unused:
        names = some_names([path.name for path in found.unused])
        print(f"not used, by their names masks or further images: {names}", file=sys.stderr)
    if found.passed_over:
        others = ", ".join(f"{count} {suffix}" for suffix, count in found.passed_over.items())
        print(f"passed over, since no reader takes them: {others}", file=sys.stderr)
    for path, reason in found.failed:
        print(f"error: {path}: {reason.removeprefix(f'{path} ')}", file=sys.stderr)
    return USER_ERROR if found.failed else DONE


def _describe_predictions(outputs: Sequence[Predicted]) -> str:
    """What is to be known of each scan, and a table of all."""
    from seglab.studies.prediction import TABLE
    from seglab.studies.report.tables import by_cause

    warnings = [(one.patient, text) for one in outputs for text in one.warnings]
    lines, rows = by_cause(warnings, len(outputs), TABLE), []
    if seen := [path.name for one in outputs for path in one.seen]:
        names = seen[0] if len(seen) == 1 else f"{len(seen)} files, the first {seen[0]}"
        lines.append(f"seen, not predicted: {names}")
    for one in outputs:
        ml = "unknown" if one.volume_ml is None else f"{one.volume_ml:.1f}"
        doubt = None if one.doubt_ml is None else f"{one.doubt_ml:.1f}"
        told = len(one.warnings) or "none"
        row = {"patient": one.patient, "mask": one.mask, "ml": ml, "ml in doubt": doubt}
        rows.append({**row, "warnings": told})
    return "\n".join([*lines, table(rows)])


def reproduce(given: argparse.Namespace) -> int:
    """Train a run again and compare."""
    from seglab.studies.reproduce import reproduce

    found = reproduce(open_store(), given.run, given.overrides)
    new, old = found["new_run_id"], found["run_id"]
    lines = [f"run {new} is equal to {old} to the bit"]
    if not found["equal"]:
        lines = [f"run {new} differs from {old}:", *found["differences"]]
    return answer(given, found, "\n  ".join(lines))


def explain(given: argparse.Namespace) -> int:
    """Say which changes made a search's best trial better."""
    from seglab.evaluation.scores import FEWEST_WITH_INTERVAL
    from seglab.studies.report.tables import interval, level, number, short
    from seglab.studies.search.explain import explain

    told = explain(open_store(), given.sweep, given.overrides, workers=given.workers)
    many, rows = len(told["validation_patients"]) >= FEWEST_WITH_INTERVAL, []
    for one in told["changes"]:
        row = {"change": f"{one['key']}: {short(one['base'])} → {short(one['best'])}"}
        for key, title in (("given", "base with it"), ("put_back", "best without it")):
            found, confidence = one[key], told["confidence"].get(key)
            row[title] = number(found["diff"], "+.3f")
            if many and confidence is not None:
                row[title] += f" ({interval(found['ci_low'], found['ci_high'], '+.3f')})"
        rows.append(row)
    sure = " and ".join(dict.fromkeys(map(level, told["confidence"].values())))
    limits = f" ({sure} interval)" if many else ""
    title = f"Difference in Dice to the base config, and to the best trial{limits}:"
    lines = [title, table(rows), "", told["text"]]
    if told["config"] is not None:
        lines.append(f"run it: python run_experiment.py {shlex.quote(told['config'])}")
    return answer(given, told, "\n".join(lines))


def artifacts(given: argparse.Namespace) -> int:
    """Download what a run logged."""
    from seglab.studies.resolve import find_model
    from seglab.tracking.artifacts import download

    store = open_store()
    run, _ = find_model(store, given.run)
    report = download(store, run.run_id, given.out, given.pattern)
    text = f"{given.out}: {len(report.files)} files, {report.bytes / 1e6:.1f} MB"
    return answer(given, vars(report), text)


def ui(given: argparse.Namespace) -> int:
    """Serve the MLflow UI."""
    from seglab.tracking.connect import serve_ui

    return serve_ui(open_store(), given.host, given.port)


def demo(given: argparse.Namespace) -> int:
    """Go through everything on phantoms, in minutes, without account or download."""
    from seglab.cli.main import main
    from seglab.core.machine import available_cores
    from seglab.studies.report.outcomes import test_sentence
    from seglab.studies.report.record import read_record

    started = time.perf_counter()
    for number, (line, purpose) in enumerate(DEMO.items(), start=1):
        print(f"\n=== {number} of {len(DEMO)}: {purpose}\n{PROGRAM} {line}", file=sys.stderr)
        argv = line.split()
        if argv[0] == "promote" and (before := read_record(open_store(), argv[1]).promotion):
            told = f"promotion {before.run_id} opened the sealed test before, which opens once"
            print(f"{told}. {test_sentence(before)}", file=sys.stderr)
            continue
        if argv[0] in ("run", "sweep"):
            argv += ["--workers", str(min(2, available_cores()))]
        if (status := main(argv)) != DONE:
            return status
    findings = "\n".join(_findings("demo"))
    steps = NEXT_OF_MAKE if "MAKELEVEL" in os.environ else NEXT
    print_text(f"\nThe demo took {time.perf_counter() - started:.0f} s.\n{findings}\n\n{steps}")
    return DONE


def _findings(experiment: str) -> list[str]:
    """What an ablation, a search and the sealed test of one experiment found, a sentence each."""
    from seglab.studies.report import outcomes, sections
    from seglab.studies.report.record import read_record

    record = read_record(open_store(), experiment)
    found = []
    for parent in record.ablations[:1]:
        result = sections.compare(record.store, parent.run_id)
        if not isinstance(result, str) and result.rows:
            clearest = min(result.rows, key=lambda row: row.p_holm)
            found.append(sections.sentence(result, clearest))
    if record.sweep is not None:
        found.append(sections.search_sentence(record))
    return [*found, outcomes.test_sentence(record.promotion)]
