"""What the sweep's run carries at its end: figures, an interactive page, ``best.yaml``."""

from __future__ import annotations

import warnings
from dataclasses import replace

from seglab.core.errors import as_warning
from seglab.core.study import Study
from seglab.studies.queue import Queue
from seglab.studies.search.figures import ended_study, pictures, search_page
from seglab.studies.search.results import SearchOutcome, summarise, write_best
from seglab.tracking import RunLog

_FOLDER = "search"


def publish(study: Study, queue: Queue, parent: RunLog) -> SearchOutcome:
    """Write and log everything that can be said of the study as it stands."""
    assert study.search is not None
    outcome = summarise(study, queue, parent.run_id)
    if outcome.best is None:
        return outcome
    folder = parent.store.folder / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    best_config, report = folder / f"{study.name}.best.yaml", folder / f"{study.name}.html"
    write_best(best_config, study, queue, outcome.best)
    parent.text(best_config.read_text(encoding="utf-8"), "best.yaml")
    ended = ended_study(queue)
    base = outcome.base.values[0] if outcome.base else None
    second = study.search.second_objective
    with as_warning("the search has no figures"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is experimental in Optuna, and of few trials
        report.write_text(search_page(ended, study.name, base, second), encoding="utf-8")
        parent.artifact(report, _FOLDER)
        columns = ("number", "value", "duration", "params", "state")
        parent.text(ended.trials_dataframe(columns).to_csv(index=False), f"{_FOLDER}/trials.csv")
        for name, figure in pictures(ended, base):
            parent.figure(figure, f"{_FOLDER}/{name}.png")
    return replace(outcome, best_config=best_config, report=report if report.exists() else None)
