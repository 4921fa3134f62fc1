"""Which trials are stopped early, when, and what that costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from seglab.core.search import Pruner
from seglab.studies.search.trials import build_pruner, is_judged, may_prune


def test_nothing_is_pruned_in_the_warm_up_the_last_epoch_or_before_enough_trials() -> None:
    pruner = Pruner(name="median", warmup_fraction=0.25, startup_trials=2)
    assert [e for e in range(1, 11) if is_judged(pruner, e, 10)] == list(range(3, 10))
    assert not any(is_judged(Pruner(name="none"), epoch, 10) for epoch in range(1, 11))
    study = optuna.create_study(direction="maximize")
    for _ in range(2):
        assert not may_prune(pruner, study)
        study.add_trial(optuna.create_trial(value=0.5))
    assert may_prune(pruner, study)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("rungs", 0.55),
        ("median", 0.75),
        ("percentile", 0.65),
        ("halving", 0.5),
        ("hyperband", 0.7),
        ("none", 1.0),
    ],
)
def test_pruners_save_epochs_and_keep_the_best(name: Any, share: float) -> None:
    """Of 16 trials whose curves do not cross, in any order."""
    epochs, shares = 12, []
    for seed in range(20):
        tops = np.random.default_rng(seed).permutation(np.linspace(0.3, 0.8, 16))
        curves = tops[:, None] * (1 - np.exp(-4 * np.arange(1, epochs + 1) / epochs))
        spent, kept = replay(curves, Pruner(name=name))
        assert max(kept) == curves.max()
        shares.append(spent / curves.size)
    assert share - 0.15 < np.mean(shares) <= share


def test_a_default_search_forgives_a_bad_middle_and_keeps_the_best() -> None:
    """The best network is the worst at the peak of its rate, as under a one-cycle schedule."""
    epochs = 12
    steady = np.linspace(0.1, 0.5, epochs) + np.linspace(-0.05, 0.05, 15)[:, None]
    late = np.array([0.18, 0.23, 0.1, 0.0, 0.0, 0.1, 0.4, 0.6, 0.7, 0.8, 0.9, 0.9])
    for place in range(1, 16):
        _, kept = replay(np.insert(steady, place, late, axis=0), Pruner())
        assert max(kept) == 0.9
    _, kept = replay(np.insert(steady, 15, late, axis=0), Pruner(name="median"))
    assert max(kept) < 0.9


def replay(curves: np.ndarray, pruner: Pruner) -> tuple[int, list[float]]:
    """Search trials of these curves one after the other; epochs spent and Dice of the finished."""
    epochs, spent = curves.shape[1], 0
    # Hyperband draws a trial's bracket from the name of the study.
    study = optuna.create_study(
        study_name="any", direction="maximize", pruner=build_pruner(pruner, epochs)
    )
    for curve in curves:
        trial = study.ask()
        for epoch, dice in enumerate(curve, start=1):
            trial.report(dice, epoch)
            spent += 1
            is_worse = is_judged(pruner, epoch, epochs) and trial.should_prune()
            if is_worse and trial.number > 0 and may_prune(pruner, study):
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, max(curve))
    return spent, [trial.value for trial in study.trials if trial.state == TrialState.COMPLETE]
