"""The runs of an ablation, and before them its tuning: the same trials for every arm."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seglab.core.config import RunConfig, flatten
from seglab.core.documents import merge, nested
from seglab.core.errors import UserError
from seglab.core.search import Range, Value
from seglab.core.study import Study, Tune, build_run
from seglab.studies.experiment import FINISHED, Outcome, Plan
from seglab.studies.results import arm_hash
from seglab.tracking.tags import ARM_HASH, FOLD, TUNES, TUNING, VALUES

DRAWS_SEED = 0
TUNING_SEED = 1_000_000  # of every tuning run; no arm is compared with it


def draw_values(tune: Tune) -> list[dict[str, Value]]:
    """Draw the tries of any arm: the arm as it is, then a Latin hypercube of the space."""
    rng = np.random.default_rng(DRAWS_SEED)
    draws = tune.trials - 1
    strata = np.stack([rng.permutation(draws) for _ in tune.space], axis=1)
    shares = (strata + rng.random(strata.shape)) / max(draws, 1)
    drawn = [
        {
            key: at_share(tune.space[key], float(share))
            for key, share in zip(tune.space, row, strict=True)
        }
        for row in shares
    ]
    return [{}, *drawn]


def at_share(domain: Range, share: float) -> Value:
    """Take the value that lies at ``share`` in [0, 1) of a range or a list of choices."""
    if domain.choices is not None:
        return domain.choices[int(share * len(domain.choices))]
    low, high = domain.bounds
    step = domain.step or (1.0 if domain.integer else None)
    if domain.log:
        top = high + (step or 0.0)
        value = math.exp(math.log(low) + share * (math.log(top) - math.log(low)))
        if step:
            value = min(low + math.floor((value - low) / step) * step, high)
    elif step:
        value = low + int(share * (math.floor((high - low) / step + 1e-9) + 1)) * step
    else:
        value = low + share * (high - low)
    return round(value) if domain.integer else value


def tuning_plans(study: Study, parent_run_id: str) -> dict[str, list[Plan]]:
    """Plan every tuning run of every arm; its values are in the tag ``VALUES``.

    Raises UserError where an arm sets a key that is to be tuned, or does not have it.
    """
    if study.tune is None:
        return {}
    conditional = [key for key, domain in study.tune.space.items() if domain.when]
    if conditional:
        raise UserError(f"tune.space.{conditional[0]}: 'when' is for searches; give plain ranges")
    points = draw_values(study.tune)
    overrides = {str(arm): override or {} for arm, override in study.document["arms"].items()}
    planned: dict[str, list[Plan]] = {}
    for arm, config in study.arms.items():
        own = flatten(overrides[arm]).keys() & study.tune.space.keys()
        if own:
            raise UserError(
                f"tune.space: arm '{arm}' sets '{min(own)}' itself; what arms differ in is not "
                "tuned"
            )
        planned[arm] = [
            Plan(
                apply_values(config, arm, values).model_copy(update={"seed": TUNING_SEED}),
                f"{arm} · tuning {number}",
                kind=TUNING,
                parent_run_id=parent_run_id,
                tags={TUNES: arm, ARM_HASH: arm_hash(config), VALUES: json.dumps(values)},
            )
            for number, values in enumerate(points)
        ]
    return planned


def plans_of(study: Study, parent_run_id: str, values: Mapping[str, Any] | None) -> dict[str, Plan]:
    """Every run by its key in the queue: all arms with the first seed and fold, then the next.

    In this order an ablation that is stopped early still compares every arm. Without ``values``,
    the tuned ones of each arm, the tuning runs are planned.
    """
    if values is None:
        plans = [plan for tries in tuning_plans(study, parent_run_id).values() for plan in tries]
    else:
        plans = []
        for seed in study.seeds:
            for fold in study.folds:
                for arm, config in study.arms.items():
                    split = config.split.model_copy(update={"fold": fold})
                    tuned = apply_values(config, arm, values[arm]) if arm in values else config
                    own = {ARM_HASH: arm_hash(config), FOLD: str(fold)}
                    tuned = tuned.model_copy(update={"seed": seed, "split": split})
                    plans.append(Plan(tuned, arm, parent_run_id=parent_run_id, tags=own))
    return {f"{plan.run_name} · {plan.config.hash()}": plan for plan in plans}


def apply_values(config: RunConfig, arm: str, values: Mapping[str, Value]) -> RunConfig:
    """Lay tuned values over an arm's config; a UserError where it does not take one."""
    document = config.to_dict()
    if unknown := values.keys() - flatten(document).keys():
        raise UserError(f"tune.space: arm '{arm}' has no key '{min(unknown)}'")
    return build_run(merge(document, nested(values.items())))


def best_values(plans: Sequence[Plan], outcomes: Sequence[Outcome]) -> dict[str, Value]:
    """Values of the run with the highest validation Dice; the first of equals, or of none."""
    best, values = -math.inf, plans[0].tags[VALUES]
    for plan, outcome in zip(plans, outcomes, strict=True):
        dice = outcome.metrics.get("val/dice", math.nan)
        if outcome.status == FINISHED and dice > best:
            best, values = dice, plan.tags[VALUES]
    return dict(json.loads(values))
