"""``sweep.py``: search for the best config."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seglab.cli.shell import DONE, Parser, add_json, answer, run_command
from seglab.core.errors import UserError

if TYPE_CHECKING:
    from seglab.core.study import Study
    from seglab.studies.search.results import SearchOutcome

EXAMPLE = """\
examples:
  python sweep.py experiments/sweeps/unet.yaml data.root=path/to/data --workers 2
  python sweep.py experiments/sweeps/unet.yaml data.root=path/to/data --trials 60 --timeout 120
several machines, the same on each:
  MLFLOW_TRACKING_URI=http://server:5000 python sweep.py experiments/sweeps/unet.yaml \\
      data.root=path/to/data search.storage=postgresql+psycopg://user@server/seglab
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``sweep.py`` with these arguments; returns the exit status."""
    parser = Parser(
        prog="sweep.py",
        description="Search for the config of the best validation Dice.\n"
        "The same command continues a search that was stopped or has crashed.",
        epilog=EXAMPLE,
    )
    parser.add_argument("file", type=Path, help="a search, e.g. experiments/sweeps/unet.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="laid over the file")
    parser.add_argument("--trials", type=int, metavar="N", help="complete and pruned ones, in all")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes; default 1")
    parser.add_argument("--timeout", type=float, metavar="MIN", help="put the search down after")
    add_json(parser)
    return run_command(_sweep, parser.parse_intermixed_args(argv), continues=True)


def _sweep(arguments: argparse.Namespace) -> int:

    study = load(arguments)
    from seglab.studies.data import check_files
    from seglab.studies.search.run import run_search
    from seglab.tracking import open_store

    check_files(study.run.data)
    timeout_s = None if arguments.timeout is None else 60 * arguments.timeout
    outcome = run_search(study, open_store(), workers=arguments.workers, timeout_s=timeout_s)
    answer(arguments, outcome.to_json(), _describe(outcome))
    return DONE


def load(arguments: argparse.Namespace) -> Study:
    """Read and check the command line and its file."""
    from seglab.core.study import load_study

    for flag in ("trials", "workers", "timeout"):
        value = getattr(arguments, flag)
        if value is not None and not value > 0:
            raise UserError(f"--{flag} {value:g}: must be above 0")
    overrides = list(arguments.overrides)
    if arguments.trials is not None:
        overrides.append(f"search.trials={arguments.trials}")
    study = load_study(arguments.file, overrides)
    if study.search is None:
        raise UserError(f"{arguments.file}: this is no search; run it with run_experiment.py")
    return study


def _describe(outcome: SearchOutcome) -> str:
    from seglab.studies.search.figures import COSTS

    counts = ", ".join(f"{count} {word}" for word, count in outcome.trials.items())
    lines = [f"search '{outcome.experiment}': {counts}; parent run {outcome.parent_run_id}"]
    if outcome.best is not None:
        params = " ".join(f"{key}={value}" for key, value in outcome.best.params.items())
        number, dice = outcome.best.number, outcome.best.values[0]
        lines.append(f"best: trial {number:03d}, val Dice {dice:.4f}  {params}")
        again = shlex.quote(str(outcome.best_config))
        lines.append(f"run it again: python run_experiment.py {again}")
        lines.append(f"figures: {outcome.report}")
    for row in outcome.front:
        dice, cost = row.values
        words = f"{COSTS[outcome.second_objective]}: {cost:.4g}"
        lines.append(f"on the front: trial {row.number:03d}, val Dice {dice:.4f}, {words}")
    if outcome.confirmation is not None:
        lines.append(f"confirmation over fresh seeds: {outcome.confirmation}")
    return "\n".join(lines)
