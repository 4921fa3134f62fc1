"""A search's best value is optimistic: the best few against the base, over fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seglab.core.documents import merge, nest
from seglab.core.study import Study, resolve_study
from seglab.studies.ablation import run_study
from seglab.studies.search.results import SearchOutcome
from seglab.studies.search.space import make_space
from seglab.tracking import RunLog, tags

BASE_ARM = "base"


def confirm(
    study: Study, outcome: SearchOutcome, parent: RunLog, *, workers: int = 1
) -> SearchOutcome:
    """Retrain the best few trials and the base config, and compare them patient by patient.

    An ablation like any other, under a parent run of its own in the same experiment;
    the sweep's run names it and keeps its report.
    """
    ablation = confirmation_study(study, outcome)
    if ablation is None:
        return outcome
    confirmed = run_study(ablation, parent.store, confirms=parent.run_id, workers=workers)
    parent.tags({tags.CONFIRMATION_RUN: confirmed.parent_run_id})
    if confirmed.report is not None:
        parent.artifact(Path(confirmed.report), "confirmation")
    return outcome.confirmed(confirmed.report)


def confirmation_study(study: Study, outcome: SearchOutcome) -> Study | None:
    """Make the ablation; None where nothing but the base is there to confirm."""
    assert study.search is not None
    space, wanted = make_space(study), study.search.confirm
    arms: dict[str, Any] = {BASE_ARM: {}}
    known = {study.run.hash()}
    ranked = sorted(
        (row for row in outcome.rows if row.state == "complete"), key=lambda row: -row.values[0]
    )
    for row in ranked:
        config = space.build(row.params)
        if len(arms) <= wanted.top and config.hash() not in known:
            known.add(config.hash())
            arms[f"trial {row.number:03d}"] = nested(row.params)
    if len(arms) == 1:
        return None
    shared = {key: value for key, value in study.document.items() if key != "search"}
    return resolve_study(
        {**shared, "arms": arms, "baseline": BASE_ARM, "seeds": list(wanted.seeds)}
    )


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"optim.lr": 0.1}`` into ``{"optim": {"lr": 0.1}}``, as an arm states it."""
    document: dict[str, Any] = {}
    for key, value in params.items():
        document = merge(document, nest(key, value))
    return document
