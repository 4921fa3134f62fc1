"""What a search came to, as plain values."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from seglab.core.config import RunConfig
from seglab.core.study import Study
from seglab.studies.queue import ITEM, Queue
from seglab.studies.search.objective import BASE_KEY, RUN, THREADS
from seglab.studies.search.space import Space
from seglab.tracking import RunLog

WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
"""How a trial ended."""


@dataclass(frozen=True)
class TrialRow:
    """One trial that ended."""

    number: int
    state: str
    """``complete``, ``pruned`` or ``failed``."""
    values: tuple[float, ...]
    """Validation Dice, and the second objective if there is one; of a pruned one its last Dice."""
    params: Mapping[str, Any]
    curve: tuple[tuple[int, float], ...]
    """(epoch, validation Dice)."""
    run_id: str
    is_base: bool
    error: str = ""
    """Why it failed."""


def pareto_front(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Trials with a higher Dice than every one that costs as little, cheapest first."""
    front: list[TrialRow] = []
    for row in sorted(rows, key=lambda r: (r.values[1], -r.values[0])):
        if not front or row.values[0] > front[-1].values[0]:
            front.append(row)
    return front


@dataclass(frozen=True)
class SearchOutcome:
    """The keys of ``sweep.py --json``, and what the confirmation needs."""

    experiment: str
    parent_run_id: str
    trials: Mapping[str, int]
    best: TrialRow | None
    best_config: Path | None
    report: Path | None
    rows: tuple[TrialRow, ...]
    confirmation: str | None = None
    second_objective: str = "none"

    @property
    def front(self) -> list[TrialRow]:
        """Of two objectives: the trials that none beats in both, cheapest first."""
        if self.second_objective == "none":
            return []
        return pareto_front([row for row in self.rows if row.state == "complete"])

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        best = self.best
        return {
            "experiment": self.experiment,
            "parent_run_id": self.parent_run_id,
            "study": self.experiment,
            "trials": dict(self.trials),
            "best": None
            if best is None
            else {"run_id": best.run_id, "value": best.values[0], "params": dict(best.params)},
            "front": [
                {"run_id": row.run_id, "values": list(row.values), "params": dict(row.params)}
                for row in self.front
            ],
            "best_config": None if self.best_config is None else str(self.best_config),
            "report": None if self.report is None else str(self.report),
            "confirmation": self.confirmation,
        }

    def confirmed(self, report: str | None) -> SearchOutcome:
        """The same with the confirmation's report."""
        return replace(self, confirmation=report)


def trial_rows(queue: Queue) -> tuple[TrialRow, ...]:
    """Describe every trial that ended, in their order; the attempts of one trial are one row."""
    ended = {
        int(key): state
        for key, state in queue.states().items()
        if state.word in ("done", "failed") and state.last is not None
    }
    return tuple(
        _row(number, state.last, "" if state.word == "done" else state.error)
        for number, state in sorted(ended.items())
        if state.last is not None
    )


def _row(number: int, trial: FrozenTrial, error: str) -> TrialRow:
    return TrialRow(
        number=number,
        state=WORDS[trial.state],
        values=tuple(trial.values or ()),
        params=dict(trial.params),
        curve=tuple(sorted(trial.intermediate_values.items())),
        run_id=trial.user_attrs.get(RUN, ""),
        is_base=trial.user_attrs[ITEM] == BASE_KEY,
        error=error,
    )


def best_row(rows: Sequence[TrialRow]) -> TrialRow | None:
    """Return the complete trial of the highest Dice, the earliest of equals."""
    complete = [row for row in rows if row.state == "complete"]
    return max(complete, key=lambda row: (row.values[0], -row.number), default=None)


def count_states(rows: Sequence[TrialRow]) -> dict[str, int]:
    """Count the trials that ended, by how."""
    return {word: sum(row.state == word for row in rows) for word in WORDS.values()}


def config_of(number: int, queue: Queue, space: Space) -> RunConfig:
    """Build the config of a trial again, with the threads it was trained with."""
    trial = queue.states()[str(number)].last
    assert trial is not None
    config = space.build(trial.params)
    threads = trial.user_attrs.get(THREADS) or config.train.threads
    train = config.train.model_copy(update={"threads": threads})
    return config.model_copy(update={"train": train})


def write_best(path: Path, study: Study, best: TrialRow, config: RunConfig) -> None:
    """Write the best config as an experiment file that gives the same Dice again.

    It names the processor threads: results repeat to the bit with the same number.
    """
    name = f"{study.name[:80]} best"
    document = config.model_copy(update={"name": name}).to_dict()
    header = (
        f"# The best of search '{study.name}': trial {best.number:03d}, "
        f"validation Dice {best.values[0]!r}.\n"
        "# The best of many is optimistic: over fresh seeds it is usually lower.\n"
        f"#   python run_experiment.py {shlex.quote(str(_from_here(path)))}\n"
    )
    path.write_text(header + yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def _from_here(path: Path) -> Path:
    """A path as it is typed in the folder of the command, which does not name that folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def summarise(study: Study, queue: Queue, parent_run_id: str) -> SearchOutcome:
    """Sum up the search as it stands."""
    assert study.search is not None
    rows = trial_rows(queue)
    return SearchOutcome(
        experiment=study.name,
        parent_run_id=parent_run_id,
        trials=count_states(rows),
        best=best_row(rows),
        best_config=None,
        report=None,
        rows=rows,
        second_objective=study.search.second_objective,
    )


class SearchProgress:
    """What a person sees while the search goes on: a line a trial, the best so far.

    Args:
        queue: of the search, whichever machine its trials run on.
        wanted: trials that are to be complete or pruned at the end.
        log: the sweep's run; counts and the best Dice become its metrics.
    """

    def __init__(self, queue: Queue, wanted: int, log: RunLog) -> None:
        self._queue, self._wanted, self._log = queue, wanted, log
        self._told = {row.number for row in trial_rows(queue)}
        self._before, self._started = len(self._told), time.monotonic()

    def look(self) -> None:
        """Print what is new."""
        rows = trial_rows(self._queue)
        for row in rows:
            if row.number not in self._told:
                self._told.add(row.number)
                print(f"{_line(row)}  |  {self._summary(rows)}", file=sys.stderr, flush=True)
                self._log_counts(rows)

    def _summary(self, rows: Sequence[TrialRow]) -> str:
        best, ended = best_row(rows), sum(row.state != "failed" for row in rows)
        leader = f"best {best.values[0]:.4f} (trial {best.number:03d})" if best else "no Dice yet"
        fresh, rest = len(rows) - self._before, self._wanted - ended
        seconds = (time.monotonic() - self._started) / max(fresh, 1) * rest
        left = f", about {timedelta(seconds=round(seconds))} to go" if rest > 0 else ""
        return f"{leader}, {ended} of {self._wanted}{left}"

    def _log_counts(self, rows: Sequence[TrialRow]) -> None:
        best = best_row(rows)
        values = {f"search/{word}": float(n) for word, n in count_states(rows).items()}
        leader = {} if best is None else {"search/best_dice": best.values[0]}
        self._log.metrics({**values, **leader}, step=len(rows))


def _line(row: TrialRow) -> str:
    """One line about a trial that ended."""
    params = " ".join(f"{key}={_short(value)}" for key, value in row.params.items())
    dice = f"Dice {row.values[0]:.4f}" if row.values else f"after {len(row.curve)} epochs"
    return f"trial {row.number:03d} {row.state:<8} {row.error or dice}  {params}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
