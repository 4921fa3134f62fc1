"""What a person reads while a search goes on, and at its end."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

import seglab.studies.components  # noqa: F401  (registers)
from seglab.core.study import resolve_study
from seglab.studies.search.identity import load_study, open_study
from seglab.studies.search.ledger import PROGRESS, Ledger, requeue, take_ownership
from seglab.studies.search.live import Live
from seglab.studies.search.report import importances
from seglab.studies.search.results import summarise
from seglab.studies.search.space import make_space
from seglab.studies.search.storage import open_storage
from seglab.tracking import open_store, start_run

DATA = SimpleNamespace(
    cache=SimpleNamespace(data_hash="d" * 64), split=SimpleNamespace(hash="split")
)


def begin(folder: Path, **search: Any) -> Ledger:
    given = {"trials": 9, "sampler": "random", **search}
    base = {"name": "s", "data": {"source": "brats-h5", "root": "nowhere"}, "search": given}
    study = resolve_study(base)
    assert study.search is not None
    storage = open_storage(None, "s", folder, 20, requeue)
    space = make_space(study)
    open_study("s", space, study.search, DATA, storage)  # type: ignore[arg-type]
    return Ledger(load_study("s", storage), storage, space, study.search, datetime.now())


def end_one(ledger: Ledger, epochs: int, *values: float) -> None:
    owner = take_ownership(ledger.storage, "s")
    claim = ledger.claim(owner.path.name, 1)
    owner.remove()
    assert claim is not None
    claim.trial.set_user_attr(PROGRESS, {"epoch": epochs, "epochs": 9, "dice": values[0]})
    ledger.tell(claim.trial, TrialState.COMPLETE, values)


def test_a_line_counts_towards_what_the_grid_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    space = {"loss.name": {"choices": ["bce_dice", "dice"]}}
    ledger = begin(tmp_path, space=space, sampler="grid")
    live = Live(ledger, start_run(open_store(), "s", "parent"))
    end_one(ledger, 1, 0.5)
    live.look()
    first = capsys.readouterr().err
    assert "Dice 0.5000 after 1 epoch  loss" in first
    assert "1 of 2, about" in first
    end_one(ledger, 2, 0.4)
    live.look()
    second = capsys.readouterr().err
    assert "after 2 epochs" in second
    assert second.rstrip().endswith("2 of 2")
    assert ledger.finished()


def test_two_objectives_end_in_their_front(tmp_path: Path) -> None:
    second = {"second_objective": "parameters", "pruner": "none"}
    ledger = begin(tmp_path, space={"optim.lr": {"low": 1e-4, "high": 1e-2}}, **second)
    for values in ((0.5, 1.0), (0.7, 2.0), (0.6, 3.0)):
        end_one(ledger, 1, *values)
    study = resolve_study(ledger.space.base.to_dict())
    told = summarise(study, ledger, "parent").to_json()
    assert [one["values"] for one in told["front"]] == [[0.5, 1.0], [0.7, 2.0]]


def test_an_evaluator_says_that_it_leaves_conditional_keys_out(tmp_path: Path) -> None:
    space = {
        "optim.lr": {"low": 1e-4, "high": 1e-2},
        "loss.name": {"choices": ["bce_dice", "tversky"]},
        "loss.alpha": {"low": 0.3, "high": 0.7, "when": {"loss.name": "tversky"}},
    }
    ledger = begin(tmp_path, space=space)
    for place in range(8):
        end_one(ledger, 1, 0.5 + 0.01 * place)
    params = [set(trial.params) for trial in ledger.trials]
    assert {"loss.alpha"} == set.union(*params) - set.intersection(*params)
    fanova, ped_anova = importances(ledger.study)
    assert set(fanova.shares) == {"optim.lr", "loss.name"}
    assert "without conditional" in fanova.evaluator
    assert "loss.alpha" in ped_anova.shares
