"""What a search came to, as plain values."""

from __future__ import annotations

import shlex
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from seglab.core.config import RunConfig
from seglab.core.errors import as_warning
from seglab.core.machine import tell
from seglab.core.study import Study
from seglab.figures.style import marked
from seglab.studies.queue import DIED, ERROR, OWNER, Queue
from seglab.studies.results import notice_of
from seglab.studies.search.figures import ended_study, ended_trials, pictures, search_page
from seglab.studies.search.space import Space
from seglab.studies.search.trials import RUN, THREADS, params_text
from seglab.studies.workers import with_threads
from seglab.tracking.run import RunLog
from seglab.tracking.store import Store

WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
"""How a trial ended."""


@dataclass(frozen=True)
class SearchOutcome:
    """The keys of ``sweep.py --json``, and what the confirmation needs."""

    experiment: str
    parent_run_id: str
    study: optuna.Study
    """In memory, of the trials that ended; see :func:`ended_study`."""
    second_objective: str = "none"
    best_config: Path | None = None
    report: Path | None = None
    confirmation: str | None = None
    """Path of its report."""

    @property
    def rows(self) -> list[FrozenTrial]:
        """The trials that ended."""
        return self.study.get_trials(deepcopy=False, states=tuple(WORDS))

    @property
    def ranked(self) -> list[FrozenTrial]:
        """The complete trials by Dice, the earliest of equals first."""
        complete = [row for row in self.rows if row.state == TrialState.COMPLETE]
        return sorted(complete, key=lambda row: (-row.values[0], row.number))

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial of the highest Dice."""
        return next(iter(self.ranked), None)

    @property
    def base(self) -> FrozenTrial | None:
        """The trial of the base config, if it is complete."""
        return next((row for row in self.ranked if row.number == 0), None)

    @property
    def trials(self) -> dict[str, int]:
        """Counts of the trials that ended, by how."""
        states = [row.state for row in self.rows]
        return {word: states.count(state) for state, word in WORDS.items()}

    @property
    def front(self) -> list[FrozenTrial]:
        """Of two objectives: the trials that none beats in both, cheapest first."""
        if self.second_objective == "none":
            return []
        firsts = {tuple(row.values): row for row in reversed(self.study.best_trials)}
        return sorted(firsts.values(), key=lambda row: row.values[1])

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        best, front = self.best, self.front
        paths = {"best_config": self.best_config, "report": self.report}
        return {
            "experiment": self.experiment,
            "parent_run_id": self.parent_run_id,
            "study": self.experiment,
            "trials": self.trials,
            "best": best
            and {
                "run_id": best.user_attrs.get(RUN, ""),
                "value": best.values[0],
                "params": best.params,
            },
            "front": [
                {"run_id": row.user_attrs.get(RUN, ""), "values": row.values, "params": row.params}
                for row in front
            ],
            **{key: path and str(path) for key, path in paths.items()},
            "confirmation": self.confirmation,
        }


def trial_line(trial: FrozenTrial) -> str:
    """A line about a trial that ended."""
    said = f"after {len(trial.intermediate_values)} epochs"
    if trial.state == TrialState.FAIL:
        said = trial.user_attrs.get(ERROR, DIED)
    elif trial.values:
        said = f"Dice {trial.values[0]:.4f}"
    return f"trial {trial.number:03d} {WORDS[trial.state]:<8} {said}  {params_text(trial.params)}"


def summarise(study: Study, queue: Queue, parent_run_id: str) -> SearchOutcome:
    """Sum up the search as it stands; the attempts of one trial are one."""
    assert study.search is not None
    second = study.search.second_objective
    return SearchOutcome(study.name, parent_run_id, ended_study(queue), second)


def write_experiment(path: Path, config: RunConfig, name: str, *comments: str) -> None:
    """Write a config as an experiment file under another name, and how it is run."""
    document = config.model_copy(update={"name": name}).to_dict()
    # As it is typed in the folder of the command, which does not name that folder.
    here = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    lines = [*comments, f"  python run_experiment.py {shlex.quote(str(here))}"]
    header = "".join(f"# {line}\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def on_disk(study: Study, queue: Queue, store: Store, parent_run_id: str) -> SearchOutcome:
    """Sum up the search, and write its best config as a file that gives the same Dice again."""
    outcome = summarise(study, queue, parent_run_id)
    if (best := outcome.best) is None:
        return outcome
    folder = store.folder / "searches"
    best_config, report = folder / f"{study.name}.best.yaml", folder / f"{study.name}.html"
    # It names the processor threads: results repeat to the bit with the same number.
    config = with_threads(Space.of(study).build(best.params), best.user_attrs.get(THREADS, 0))
    write_experiment(
        best_config,
        config,
        f"{study.name[:80]} best",
        f"The best of search '{study.name}': trial {best.number:03d}, "
        f"validation Dice {best.values[0]!r}.",
        "The best of many is optimistic: over fresh seeds and patients it is usually lower.",
    )
    return replace(outcome, best_config=best_config, report=report if report.exists() else None)


def publish(study: Study, queue: Queue, parent: RunLog) -> SearchOutcome:
    """Write and log everything that can be said of the study as it stands."""
    outcome = on_disk(study, queue, parent.store, parent.run_id)
    if outcome.best is None or outcome.best_config is None:
        return outcome
    tell("drawing the figures of the search")
    parent.metrics({"val/dice": outcome.best.values[0]}, step=len(outcome.rows))
    parent.text(outcome.best_config.read_text(encoding="utf-8"), "best.yaml")
    report = outcome.best_config.with_name(f"{study.name}.html")
    ended, second = outcome.study, outcome.second_objective
    base = outcome.base.values[0] if outcome.base else None
    notice = notice_of(parent.store.find_runs(parent_run_id=parent.run_id))
    with as_warning("the search has no figures"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is experimental in Optuna, and of few trials
        report.write_text(search_page(ended, study.name, base, second, notice), encoding="utf-8")
        parent.artifact(report, "search")
        columns = ("number", "value", "duration", "params", "state")
        parent.text(ended.trials_dataframe(columns).to_csv(index=False), "search/trials.csv")
        for name, figure in pictures(ended, base):
            parent.figure(marked(figure, notice), f"search/{name}.png")
    return replace(outcome, report=report if report.exists() else None)


def show_progress(study: Study, queue: Queue, log: RunLog, told: set[int]) -> None:
    """Print a line a trial that ended and is not ``told`` of, after the last the best so far.

    The numbers of those that are printed join ``told``. Counts and the best Dice become metrics of
    the sweep's run.
    """
    if ended_trials(queue).keys() <= told:
        return
    assert study.search is not None
    outcome = summarise(study, queue, log.run_id)
    best, counts = outcome.best, outcome.trials
    leader = f"best {best.values[0]:.4f} (trial {best.number:03d})" if best else "none complete"
    counted = f"{len(outcome.rows) - counts['failed']} of {study.search.trials} trials"
    values = {f"search/{word}": float(count) for word, count in counts.items()}
    if best:
        values["search/best_dice"] = best.values[0]
    new = [row for row in outcome.rows if row.number not in told]
    for row in new:
        told.add(row.number)
        so_far = f"  |  {leader}, {counted}" if row is new[-1] else ""
        tell(trial_line(row) + so_far)
        if queue.worker.is_here(row.user_attrs.get(OWNER, "")):
            log.metrics(values, step=len(outcome.rows))  # each machine those of its own
