"""What the sweep's run carries at its end: figures, an interactive page, ``best.yaml``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import optuna
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)

from seglab.core.errors import as_warning, first_line
from seglab.core.search import Search
from seglab.core.study import Study
from seglab.figures import search as draw
from seglab.figures.search_page import search_page
from seglab.figures.trials import Importance
from seglab.studies.queue import Queue
from seglab.studies.search.results import SearchOutcome, config_of, summarise, write_best
from seglab.studies.search.space import Space
from seglab.tracking import RunLog

_FEWEST_TRIALS = 4
_FOLDER = "search"


def publish(study: Study, queue: Queue, space: Space, parent: RunLog) -> SearchOutcome:
    """Write and log everything that can be said of the study as it stands."""
    assert study.search is not None
    outcome = summarise(study, queue, parent.run_id)
    if outcome.best is None:
        return outcome
    folder = parent.store.folder / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    best_config, report = folder / f"{study.name}.best.yaml", folder / f"{study.name}.html"
    best = config_of(outcome.best.number, queue, space)
    write_best(best_config, study, outcome.best, best)
    parent.text(best_config.read_text(encoding="utf-8"), "best.yaml")
    found = importances(queue.study)
    search = study.search
    with as_warning("the search has no figures"):
        _log_figures(outcome, found, search, parent)
    second = search.second_objective
    page = search_page(study.name, outcome.rows, found, second, search.log_keys)
    report.write_text(page, encoding="utf-8")
    parent.artifact(report, _FOLDER)
    return replace(outcome, best_config=best_config, report=report)


def _log_figures(
    outcome: SearchOutcome, found: Sequence[Importance], search: Search, parent: RunLog
) -> None:
    rows, second, log_keys = outcome.rows, search.second_objective, search.log_keys
    figures = {
        "history": draw.history(rows),
        "importance": draw.importances(found),
        "parallel": draw.parallel(rows, log_keys),
        "slices": draw.slices(rows, log_keys),
        "time": draw.time_spent(rows),
    }
    if any(row.curve for row in rows):
        figures["curves"] = draw.curves(rows)
    if second != "none":
        figures["pareto"] = draw.pareto(rows, second)
    for name, figure in figures.items():
        parent.figure(figure, f"{_FOLDER}/{name}.png")


def importances(study: optuna.Study) -> list[Importance]:
    """Judge the parameters by both evaluators; fANOVA knows those of every trial alone."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    keys = {key for trial in complete for key in trial.params}
    everywhere = all(keys <= trial.params.keys() for trial in complete)
    name = "fANOVA" if everywhere else "fANOVA, without conditional keys"
    return [
        _importance(study, name, FanovaImportanceEvaluator(seed=0)),
        _importance(study, "PED-ANOVA", PedAnovaImportanceEvaluator()),
    ]


def _importance(study: optuna.Study, name: str, evaluator: BaseImportanceEvaluator) -> Importance:
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < _FEWEST_TRIALS:
        return Importance(name, {}, f"needs {_FEWEST_TRIALS} complete trials")
    if not set.intersection(*(set(trial.params) for trial in complete)):
        return Importance(name, {}, "no parameter is in every trial")
    try:
        with warnings.catch_warnings():  # about few trials, which the reader can count
            warnings.simplefilter("ignore")
            # PED-ANOVA asks what makes a value low; fANOVA does not mind the sign.
            shares = get_param_importances(
                study, evaluator=evaluator, target=lambda t: -t.values[0]
            )
    except (ValueError, RuntimeError) as error:  # values all alike, among others
        return Importance(name, {}, first_line(error))
    return Importance(name, shares)
