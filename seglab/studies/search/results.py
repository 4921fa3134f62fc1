"""What a search came to, as plain values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from seglab.core.config import RunConfig
from seglab.core.study import Study
from seglab.figures.trials import TrialRow, pareto_front
from seglab.studies.search.ledger import BASE, ERROR, RUN, THREADS, Ledger
from seglab.studies.search.live import WORDS, best_trial, count_states

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


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


def collect(ledger: Ledger) -> tuple[TrialRow, ...]:
    """Describe every trial that ended, in their order."""
    return tuple(_row(trial) for trial in ledger.trials if trial.state in _ENDED)


def _row(trial: FrozenTrial) -> TrialRow:
    return TrialRow(
        number=trial.number,
        state=WORDS[trial.state],
        values=tuple(trial.values or ()),
        params=dict(trial.params),
        curve=tuple(sorted(trial.intermediate_values.items())),
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        run_id=trial.user_attrs.get(RUN, ""),
        is_base=bool(trial.user_attrs.get(BASE)),
        error=trial.user_attrs.get(ERROR, ""),
    )


def config_of(number: int, ledger: Ledger) -> RunConfig:
    """Build the config of a trial again, with the threads it was trained with."""
    trial = next(t for t in ledger.trials if t.number == number)
    config = ledger.space.build(trial.params)
    train = config.train.model_copy(update={"threads": trial.user_attrs.get(THREADS, 0)})
    return config.model_copy(update={"train": train})


def write_best(path: Path, study: Study, best: TrialRow, ledger: Ledger) -> None:
    """Write the best config as an experiment file that gives the same Dice again.

    It names the processor threads: results repeat to the bit with the same number.
    """
    name = f"{study.name[:80]} best"
    document = config_of(best.number, ledger).model_copy(update={"name": name}).to_dict()
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


def summarise(study: Study, ledger: Ledger, parent_run_id: str) -> SearchOutcome:
    """Sum up the study as it stands."""
    rows = collect(ledger)
    best = best_trial(ledger.trials)
    return SearchOutcome(
        experiment=study.name,
        parent_run_id=parent_run_id,
        trials=count_states(ledger.trials),
        best=None if best is None else next(r for r in rows if r.number == best.number),
        best_config=None,
        report=None,
        rows=rows,
        second_objective=ledger.search.second_objective,
    )
