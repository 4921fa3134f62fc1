"""Nuisance parameters re-tuned for every arm: the same trials, drawn before anything is seen."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seglab.core.config import RunConfig, flatten
from seglab.core.documents import merge, nest
from seglab.core.errors import UserError
from seglab.core.search import Range, Value
from seglab.core.study import Study, Tune, build_run
from seglab.studies.experiment import FINISHED, Outcome, Plan
from seglab.studies.results import arm_hash
from seglab.tracking.tags import ARM_HASH, TUNES, TUNING, VALUES

DRAWS_SEED = 0

TUNING_SEED = 1_000_000
"""Of every tuning trial; seeds that are added to an ablation later leave the tuning as it is."""


@dataclass(frozen=True)
class Trial:
    """One try: the values it changes, and the run that shows what they are worth."""

    arm: str
    values: Mapping[str, Value]
    plan: Plan


def draw_values(tune: Tune) -> list[dict[str, Value]]:
    """Draw the trials of one arm: the arm as it is, then a Latin hypercube of the space.

    Every arm tries the same values, so that none is luckier in its draws.
    """
    rng = np.random.default_rng(DRAWS_SEED)
    draws = tune.trials - 1
    strata = np.stack([rng.permutation(draws) for _ in tune.space], axis=1)
    shares = (strata + rng.random(strata.shape)) / max(draws, 1)
    points: list[dict[str, Value]] = [{}]
    for row in shares:
        values: dict[str, Value] = {}
        for share, (key, domain) in zip(row, tune.space.items(), strict=True):
            values[key] = at_share(domain, float(share))
        points.append(values)
    return points


def at_share(domain: Range, share: float) -> Value:
    """Take the value that lies at ``share`` in [0, 1) of a range or a list of choices."""
    if domain.choices is not None:
        return domain.choices[int(share * len(domain.choices))]
    assert domain.low is not None
    assert domain.high is not None
    if domain.integer or domain.step:
        step = domain.step or 1.0
        steps = math.floor((domain.high - domain.low) / step + 1e-9) + 1
        if domain.log:
            value = _log_between(domain.low, domain.high + step, share)
            value = min(domain.low + math.floor((value - domain.low) / step) * step, domain.high)
        else:
            value = domain.low + int(share * steps) * step
        return round(value) if domain.integer else value
    if domain.log:
        return _log_between(domain.low, domain.high, share)
    return domain.low + share * (domain.high - domain.low)


def _log_between(low: float, high: float, share: float) -> float:
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))


def tuning_trials(study: Study, parent_run_id: str) -> dict[str, list[Trial]]:
    """Plan every trial of every arm.

    Trials are trained with a seed that the comparison does not use: the values
    are chosen on other runs than those that are compared.

    Raises:
        UserError: an arm sets a key that is to be tuned, or does not have it.
    """
    if study.tune is None:
        return {}
    conditional = [key for key, domain in study.tune.space.items() if domain.when]
    if conditional:
        raise UserError(f"tune.space.{conditional[0]}: 'when' is for searches; give plain ranges")
    points = draw_values(study.tune)
    seed = TUNING_SEED
    planned: dict[str, list[Trial]] = {}
    for arm, config in study.arms.items():
        _refuse_tuned_key(study, arm)
        tags = {TUNES: arm, ARM_HASH: arm_hash(config)}
        planned[arm] = [
            Trial(
                arm,
                values,
                Plan(
                    apply_values(config, arm, values).model_copy(update={"seed": seed}),
                    f"{arm} · tuning {number}",
                    kind=TUNING,
                    parent_run_id=parent_run_id,
                    tags=tags | {VALUES: json.dumps(values)},
                ),
            )
            for number, values in enumerate(points)
        ]
    return planned


def apply_values(config: RunConfig, arm: str, values: Mapping[str, Value]) -> RunConfig:
    """Lay tuned values over an arm's config.

    Raises:
        UserError: the arm has no such key, or does not take the value.
    """
    document: dict[str, Any] = config.to_dict()
    for key, value in values.items():
        if key not in flatten(document):
            raise UserError(f"tune.space: arm '{arm}' has no key '{key}'")
        document = merge(document, nest(key, value))
    return build_run(document)


def _refuse_tuned_key(study: Study, arm: str) -> None:
    assert study.tune is not None
    override = (study.document.get("arms") or {}).get(arm) or {}
    both = set(flatten(dict(override))) & set(study.tune.space)
    if both:
        raise UserError(
            f"tune.space: arm '{arm}' sets '{min(both)}' itself; what arms differ in is not tuned"
        )


def best_values(trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> Mapping[str, Value]:
    """Values of the trial with the highest validation Dice; the first of equals."""
    best, values = -math.inf, trials[0].values
    for trial, outcome in zip(trials, outcomes, strict=True):
        dice = outcome.metrics.get("val/dice", math.nan)
        if outcome.status == FINISHED and dice > best:
            best, values = dice, trial.values
    return values
