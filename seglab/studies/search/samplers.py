"""Which config comes next, and which trial is stopped early."""

from __future__ import annotations

import math

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from seglab.core.search import Pruner, Search

_FEWEST_RANDOM, _MOST_RANDOM = 4, 10
_SECOND_LOOK = 2 / 3
_KEPT = (1 / 3, 1 / 2)
"""Of ``RungPruner``: shares that go on, of all at the first look, of the rest at the second."""


def build_sampler(search: Search, ended: int, active: int = 0) -> BaseSampler:
    """Build the sampler of the next trial.

    Made anew for every trial, seeded with the number of trials that ended and that others are
    at: processes that shared a seed would all propose the same, and so would a continued study.
    """
    seed = int(np.random.SeedSequence([search.seed, ended, active]).generate_state(1)[0])
    startup = min(_MOST_RANDOM, max(_FEWEST_RANDOM, search.trials // 3))
    samplers, random = optuna.samplers, optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "tpe":
        conditional = any(domain.when for domain in search.space.values())
        return samplers.TPESampler(seed=seed, n_startup_trials=startup, group=conditional)
    if search.sampler == "gp":
        return samplers.GPSampler(
            seed=seed, n_startup_trials=startup, warn_independent_sampling=False
        )
    if search.sampler == "qmc":
        # The study counts the points of the sequence, so that its seed stays the same.
        return samplers.QMCSampler(
            seed=search.seed,
            scramble=True,
            independent_sampler=random,
            warn_independent_sampling=False,
        )
    return random


def build_pruner(pruner: Pruner, epochs: int) -> BasePruner:
    """Build the pruner; warm-up is :func:`is_judged`'s, start-up trials :func:`may_prune`'s."""
    first = max(1, math.ceil(pruner.warmup_fraction * epochs))
    if pruner.name == "rungs":
        return RungPruner(first, epochs)
    if pruner.name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=0)
    if pruner.name == "percentile":
        return optuna.pruners.PercentilePruner(pruner.percentile, n_startup_trials=0)
    if pruner.name == "halving":
        # One in four goes on at each rung, as in Li et al. 2020 (arXiv:1810.05934).
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=4)
    if pruner.name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=max(epochs, first))
    return optuna.pruners.NopPruner()


def is_judged(pruner: Pruner, epoch: int, epochs: int) -> bool:
    """Whether the pruner looks at a trial after this epoch: no sooner than the warm-up's last."""
    warmup = math.ceil(pruner.warmup_fraction * epochs)
    return pruner.name != "none" and warmup <= epoch < epochs


def may_prune(pruner: Pruner, study: optuna.Study) -> bool:
    """Whether enough trials are complete for others to be stopped."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return len(complete) >= pruner.startup


class RungPruner(BasePruner):
    """Looks at a trial's best Dice so far, after the warm-up and at two thirds of its epochs.

    Between the two a one-cycle rate is past its peak, and networks that will end best are
    often the worst: judged after each epoch, as a median does, they are pruned there.
    """

    def __init__(self, first: int, epochs: int) -> None:
        self._kept = {math.ceil(_SECOND_LOOK * epochs): _KEPT[1]} | {first: _KEPT[0]}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Say whether ``trial`` is too low among all that came as far."""
        epoch = trial.last_step
        if epoch is None or epoch not in self._kept:
            return False
        others = [
            _best_until(other, epoch)
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and epoch in other.intermediate_values
        ]
        places = max(1, math.floor(self._kept[epoch] * (len(others) + 1) + 0.5))
        return sum(other > _best_until(trial, epoch) for other in others) >= places


def _best_until(trial: FrozenTrial, epoch: int) -> float:
    """Highest Dice of a trial up to ``epoch``."""
    return max(dice for step, dice in trial.intermediate_values.items() if step <= epoch)
