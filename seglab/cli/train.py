"""``run_experiment.py`` trains one experiment or an ablation, ``sweep.py`` searches."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from seglab.cli.shell import DONE, OUR_FAULT, PROGRAM, USER_ERROR, answer, table
from seglab.core.errors import UserError
from seglab.tracking.connect import find_store, open_store

if TYPE_CHECKING:
    from seglab.core.study import Study
    from seglab.studies.ablation import StudyOutcome
    from seglab.studies.search.results import SearchOutcome
    from seglab.tracking.store import Store

PACKAGE = Path(__file__).resolve().parents[1]
EXPERIMENTS = next(
    (at for at in (PACKAGE / "experiments", PACKAGE.parent / "experiments") if at.is_dir()), PACKAGE
)
"""The experiments that come along: of an installation, or of a checkout."""


def experiment_file(text: str) -> Path:
    """The file of this name; of ``experiments/…``, the one that comes along where none is here."""
    path = Path(text)
    shipped = EXPERIMENTS.parent / path
    known = path.parts[:1] == ("experiments",) and shipped.is_file() and not path.exists()
    return shipped if known else path


def _refuse_none(arguments: argparse.Namespace, *flags: str) -> None:
    for flag in flags:
        value = getattr(arguments, flag)
        if value is not None and not value > 0:
            raise UserError(f"--{flag} {value:g}: must be above 0")


def run(arguments: argparse.Namespace) -> int:
    """Train one experiment, or every arm × seed of an ablation."""
    from seglab.core.study import load_study

    _refuse_none(arguments, "workers")
    arms = (arguments.arms or "").split(",") if arguments.arms is not None else ()
    study = load_study(arguments.file, arguments.overrides, arms)
    if study.search is not None:
        raise UserError(f"{arguments.file}: this is a search; run it with sweep.py")
    if arguments.plan:
        from seglab.studies.plan import write_plan

        written = write_plan(study, open_store())
        lines = [f"plan {written['hash'][:12]}: {written['plan']}"]
        lines += [f"warning: {told}" for told in written["warnings"]]
        return answer(arguments, written, "\n".join(lines))
    if arguments.dry_run:
        return _show_plan(arguments, study, None if arguments.fresh else find_store())
    from seglab.data.open import check_files
    from seglab.studies.ablation import run_study
    from seglab.studies.candidates import to_promote

    check_files(study.reference.data)
    store = open_store()
    outcome = run_study(study, store, fresh=arguments.fresh, workers=arguments.workers)
    made = outcome.parent_run_id or outcome.runs[0].run_id
    name = to_promote(store, outcome.experiment, made)
    answer(arguments, outcome.to_json(), describe_study(outcome, name))
    if any(run.our_fault for run in outcome.runs):
        return OUR_FAULT
    return DONE if any(run.status == "FINISHED" for run in outcome.runs) else USER_ERROR


def _show_plan(arguments: argparse.Namespace, study: Study, store: Store | None) -> int:
    from seglab.studies.plan import make_plan, plan_text

    plan = make_plan(study, store)
    return answer(arguments, plan, plan_text(plan))


def describe_study(outcome: StudyOutcome, to_promote: str) -> str:
    """What the runs of a study came to, for a person, and the name under which it is promoted."""
    from seglab.studies.report.tables import number

    folds = 1 + max((run.fold or 0 for run in outcome.runs), default=0)
    rows = [
        {
            "run": run.arm,
            "seed": run.seed,
            "fold": None if run.fold is None else f"{run.fold + 1}/{folds}",
            "id": run.run_id[:8] or "–",
            "val Dice": _with_spread(run.metrics, "val/dice"),
            "val IoU": _with_spread(run.metrics, "val/iou"),
            "HD95 mm": number(run.metrics.get("val/hd95_mm"), ".1f"),
            "train s": number(run.metrics.get("cost/train_seconds"), ".0f"),
            "MB": number(run.metrics.get("cost/peak_memory_mb"), ".0f"),
            "status": run.status + (" (done before)" if run.reused else ""),
        }
        for run in outcome.runs
    ]
    parent = outcome.parent_run_id
    where = f"run {outcome.runs[0].run_id}" if parent is None else f"parent run {parent}"
    lines = [
        table(rows),
        "Dice and IoU: mean ± standard deviation over patients",
        "",
        f"experiment '{outcome.experiment}', {where}; look: {PROGRAM} ui",
    ]
    if outcome.report is not None:
        lines.append(f"report: {outcome.report}")
    if any(run.status == "FINISHED" for run in outcome.runs):
        lines.append(f"next: {PROGRAM} promote {shlex.quote(to_promote)}")
    return "\n".join(lines)


def _with_spread(metrics: Mapping[str, float], name: str) -> str:
    from seglab.studies.report.tables import NONE, number

    mean, spread = number(metrics.get(name), ".4f"), number(metrics.get(f"{name}_sd"))
    return mean if spread == NONE else f"{mean} ± {spread}"  # one patient has none


def sweep(arguments: argparse.Namespace) -> int:
    """Search with Optuna."""
    from seglab.core.study import load_study

    _refuse_none(arguments, "trials", "workers", "timeout")
    trials = [] if arguments.trials is None else [f"search.trials={arguments.trials}"]
    study = load_study(arguments.file, [*arguments.overrides, *trials])
    if study.search is None:
        raise UserError(f"{arguments.file}: this is no search; run it with run_experiment.py")
    if arguments.dry_run:
        return _show_plan(arguments, study, None)
    from seglab.data.open import check_files
    from seglab.studies.candidates import to_promote
    from seglab.studies.report.page import report_folder
    from seglab.studies.search.run import run_search

    check_files(study.run.data)
    timeout_s = None if arguments.timeout is None else 60 * arguments.timeout
    store = open_store()
    outcome = run_search(study, store, workers=arguments.workers, timeout_s=timeout_s)
    name = to_promote(store, outcome.experiment, outcome.parent_run_id)
    page = report_folder(store, outcome.experiment) / "report.html"
    return answer(arguments, outcome.to_json(), describe_search(outcome, name, page))


def describe_search(outcome: SearchOutcome, to_promote: str, page: Path) -> str:
    """What a search came to, for a person, the name under which it is promoted, and its page."""
    from seglab.studies.search.figures import COSTS

    counts = ", ".join(f"{count} {word}" for word, count in outcome.trials.items())
    lines = [f"search '{outcome.experiment}': {counts}; parent run {outcome.parent_run_id}"]
    if outcome.best is not None:
        params = " ".join(f"{key}={value}" for key, value in outcome.best.params.items())
        number, dice = outcome.best.number, outcome.best.values[0]
        told = f"run it again: python run_experiment.py {shlex.quote(str(outcome.best_config))}"
        if outcome.best is outcome.base:
            told = "that is the base config: no other trial was better"
        lines += [
            f"best: trial {number:03d}, val Dice {dice:.4f}  {params}",
            told,
            f"figures: {outcome.report}",
        ]
    for row in outcome.front:
        dice, cost = row.values
        words = f"{COSTS[outcome.second_objective]}: {cost:.4g}"
        lines.append(f"on the front: trial {row.number:03d}, val Dice {dice:.4f}, {words}")
    if outcome.confirmation is not None:
        lines.append(f"confirmation on other patients and seeds: {outcome.confirmation}")
    if page.is_file():
        lines.append(f"report: {page}")
    if outcome.best is not None:
        lines.append(f"next: {PROGRAM} promote {shlex.quote(to_promote)}")
    return "\n".join(lines)
