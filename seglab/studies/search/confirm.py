"""A search's best value is optimistic: the best few against the base, on other patients and seeds.

The validation patients that chose the best trials cannot judge them. The confirmation draws the
split anew (``split.redraw``): other patients, who trained in the search, validate, and those of
the search train. The test patients stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seglab.core.documents import merge, nested
from seglab.core.machine import tell
from seglab.core.study import Study, resolve_study
from seglab.studies.ablation import CONFIRMATION, run_study
from seglab.studies.report.sections import compare, shown_optimism
from seglab.studies.search.results import SearchOutcome
from seglab.studies.search.space import Space
from seglab.tracking import tags
from seglab.tracking.run import RunLog
from seglab.tracking.store import Store

BASE_ARM = "base"
FILE = "confirmation.json"
NO_PATIENTS = (
    "split.folds makes every patient outside the test a validation patient: none is left who had "
    "no part in the choice, so there are the figures of the search and no verdict"
)


def confirm(
    study: Study,
    outcome: SearchOutcome,
    parent: RunLog,
    *,
    workers: int = 1,
    deadline: float | None = None,
) -> tuple[str | None, str]:
    """Retrain the best few trials and the base config, and compare them patient by patient.

    An ablation like any other, in an experiment of its own: its runs are validated on other
    patients than the search's, so that a promotion cannot rank both. The sweep's run names it,
    and keeps its report and ``confirmation.json``. Returns the report's path, and what it says.
    """
    assert study.search is not None
    if outcome.best is None or study.search.confirm.top == 0:
        return None, ""
    best, base = outcome.best, outcome.base
    told: dict[str, Any] = {
        "split_seed": study.run.split.seed,
        "redraw": 0,
        "winner": f"trial {best.number:03d}",
        "search_value": best.values[0],
        "search_gain": best.values[0] - base.values[0] if base else None,
    }
    ablation, report = confirmation_study(study, outcome), None
    if isinstance(ablation, str):
        told["reason"] = ablation
    else:
        confirmed = run_study(
            ablation, parent.store, confirms=parent.run_id, workers=workers, deadline=deadline
        )
        parent.tags({tags.CONFIRMATION_RUN: confirmed.parent_run_id})
        told["redraw"] = ablation.run.split.redraw
        told |= _judge(parent.store, str(confirmed.parent_run_id), told)
        if report := confirmed.report:
            parent.artifact(Path(report), "confirmation")
    if told.get("optimism") is not None:
        parent.metrics({"search/optimism": told["optimism"]}, step=len(outcome.rows))
    told["text"] = sentence(told)
    parent.json(told, FILE)
    tell(told["text"])
    return report, str(told["text"])


def confirmation_study(study: Study, outcome: SearchOutcome) -> Study | str:
    """Make the ablation that confirms the best trials, or say why there is none."""
    assert study.search is not None
    if study.run.split.folds:
        return NO_PATIENTS
    space, top = Space.of(study), study.search.confirm.top
    arms: dict[str, Any] = {BASE_ARM: {}}
    known = {study.run.hash()}
    for row in outcome.ranked:
        config = space.build(row.params)
        if len(arms) <= top and config.hash() not in known:
            known.add(config.hash())
            arms[f"trial {row.number:03d}"] = nested(row.params.items())
    if len(arms) == 1:
        return "no trial of another config than the base config is complete"
    if outcome.best is None or f"trial {outcome.best.number:03d}" not in arms:
        return "the base config is the best of the search itself"
    return retrained(study, CONFIRMATION, arms)


def retrained(
    study: Study, suffix: str, arms: Mapping[str, Any], baseline: str = BASE_ARM
) -> Study:
    """Make an ablation over fresh seeds, and patients that had no part in the search's choice."""
    assert study.search is not None
    shared = {key: value for key, value in study.document.items() if key != "search"}
    own = {
        "name": f"{study.name[:86]}{suffix}",
        "arms": arms,
        "baseline": baseline,
        "seeds": list(study.search.confirm.seeds),
        "storage": study.storage,
        "split": {"redraw": study.run.split.redraw + 1},
    }
    return resolve_study(merge(shared, own))


def _judge(store: Store, run_id: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the winner on the confirmation's patients, or the reason why there are none.

    The optimism is what the winner gains on the base config in the search, less what it gains
    here: the patients differ, and their difficulty cancels out within each.
    """
    result = compare(store, run_id)
    if isinstance(result, str):
        return {"reason": result}
    found: dict[str, Any] = {"validation_patients": list(result.comparison.patients)}
    row = next((row for row in result.comparison.rows if row.arm == told["winner"]), None)
    if row is None:
        return found | {"reason": "none of its runs finished"}
    found |= {"confirmed_mean": row.mean, "ci_low": row.mean_low, "ci_high": row.mean_high}
    gains = {"confirmed_gain": row.diff, "gain_ci_low": row.ci_low, "gain_ci_high": row.ci_high}
    gain = told["search_gain"]
    optimism = None if gain is None else gain - row.diff
    return found | gains | {"optimism": optimism, "verdict": result.verdicts[row.arm]}


def sentence(told: Mapping[str, Any]) -> str:
    """What a confirmation says, in words."""
    if "verdict" not in told:
        return f"no confirmation of {told['winner']}: {told['reason']}"
    text = (
        f"confirmation: {told['winner']} against the base config on "
        f"{len(told['validation_patients'])} patients who had no part in the choice: "
        f"{told['verdict']}, {told['confirmed_gain']:+.3f}"
    )
    if told["optimism"] is None:
        return text
    gain = told["search_gain"]
    return f"{text} (in the search {gain:+.3f}: optimism {shown_optimism(told):+.3f})"
