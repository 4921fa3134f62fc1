"""``run_experiment.py``: one experiment, or every arm × seed of an ablation."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seglab.cli.shell import (
    DONE,
    OUR_FAULT,
    USER_ERROR,
    Parser,
    add_json,
    answer,
    run_command,
    table,
)
from seglab.core.errors import UserError

if TYPE_CHECKING:
    from seglab.studies.ablation import StudyOutcome

EXAMPLE = """\
examples:
  python run_experiment.py experiments/baseline.yaml data.root=path/to/data
  python run_experiment.py experiments/losses.yaml data.root=path/to/data --dry-run
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``run_experiment.py`` with these arguments; returns the exit status."""
    parser = Parser(
        prog="run_experiment.py",
        description="Train one experiment, or every arm × seed of an ablation.\nAn unfinished run "
        "of the same config, data and code is continued, a finished one reported,\nand one that "
        "another process trains is waited for.",
        epilog=EXAMPLE,
    )
    parser.add_argument("file", type=Path, help="an experiment, e.g. experiments/baseline.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="laid over the file")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes; default 1")
    parser.add_argument("--fresh", action="store_true", help="train it once more, done or not")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, train nothing")
    add_json(parser)
    return run_command(_run, parser.parse_intermixed_args(argv), continues=True)


def _run(arguments: argparse.Namespace) -> int:
    from seglab.core.study import load_study

    study = load_study(arguments.file, arguments.overrides)
    if study.search is not None:
        raise UserError(f"{arguments.file}: this is a search; run it with sweep.py")
    if arguments.dry_run:
        from seglab.studies.plan import make_plan

        plan = make_plan(study)
        answer(arguments, plan.to_json(), plan.to_text())
        return DONE
    from seglab.studies.ablation import run_study
    from seglab.studies.data import check_files
    from seglab.tracking import open_store

    check_files(study.reference.data)
    outcome = run_study(study, open_store(), fresh=arguments.fresh, workers=arguments.workers)
    answer(arguments, outcome.to_json(), _describe(outcome))
    if any(run.our_fault for run in outcome.runs):
        return OUR_FAULT
    return DONE if any(run.status == "FINISHED" for run in outcome.runs) else USER_ERROR


def _describe(outcome: StudyOutcome) -> str:
    folded = any(run.fold is not None for run in outcome.runs)
    scores = ("val Dice", "val IoU", "HD95 mm", "train s", "MB", "status")
    header = ("run", "seed", *(["split.fold"] if folded else []), *scores)
    rows = [
        (
            run.arm,
            str(run.seed),
            *([str(run.fold)] if folded else []),
            _with_spread(run.metrics, "val/dice"),
            _with_spread(run.metrics, "val/iou"),
            _number(run.metrics.get("val/hd95_mm"), 1),
            _number(run.metrics.get("cost/train_seconds"), 0),
            _number(run.metrics.get("cost/peak_memory_mb"), 0),
            run.status + (" (done before)" if run.reused else ""),
        )
        for run in outcome.runs
    ]
    where = (
        f"run {outcome.runs[0].run_id}"
        if outcome.parent_run_id is None
        else (f"parent run {outcome.parent_run_id}")
    )
    note = "Dice and IoU: mean ± standard deviation over patients"
    lines = [
        table(header, rows),
        note,
        "",
        f"experiment '{outcome.experiment}', {where}; look: make ui",
    ]
    return "\n".join(lines if outcome.report is None else [*lines, f"report: {outcome.report}"])


def _with_spread(metrics: Mapping[str, float], name: str) -> str:
    mean, spread = _number(metrics.get(name)), _number(metrics.get(f"{name}_sd"), 3)
    return mean if spread == _number(None) else f"{mean} ± {spread}"  # one patient has none


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"
