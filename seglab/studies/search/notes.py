"""What optuna-dashboard shows of a study beside its plots: names, and links to the MLflow runs.

It reads Markdown from attributes of the study; so nothing of it is needed to write them.
"""

from __future__ import annotations

import optuna

from seglab.tracking import RunInfo, Store

_NOTE_VERSION, _NOTE_TEXT = "note_ver", "note_str:0"
"""As optuna-dashboard 0.21 names them; a text of up to 2,045 characters is one piece."""


def note_study(study: optuna.Study, store: Store, run: RunInfo, second: str) -> None:
    """Say what the study maximises, and where the sweep's run is."""
    names = ["val/dice"] if second == "none" else ["val/dice", second]
    study.set_metric_names(names)
    text = f"Validation patient Dice of '{study.study_name}'; trial 0 is the base config."
    _write(study, "dashboard", f"{text}\n\n{_links(store, run)}")


def note_trial(study: optuna.Study, trial_id: int, store: Store, run: RunInfo) -> None:
    """Give a trial the name of its run, and the way to it."""
    _write(study, f"dashboard:{trial_id}", f"**{run.name}**\n\n{_links(store, run)}")


def _links(store: Store, run: RunInfo) -> str:
    page = store.page(run)
    served = "\n\n`make ui` serves these pages." if store.is_local else ""
    return f"[MLflow run]({page}) · [its pictures and files]({page}/artifacts){served}"


def _write(study: optuna.Study, prefix: str, text: str) -> None:
    for key, value in ((_NOTE_VERSION, 1), (_NOTE_TEXT, text)):
        study._storage.set_study_system_attr(study._study_id, f"{prefix}:{key}", value)
