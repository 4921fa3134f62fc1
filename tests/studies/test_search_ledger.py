"""Trials are claimed once, survive their workers, and are counted as asked."""

from __future__ import annotations

import socket
import threading
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from seglab.core.errors import UserError
from seglab.studies.search.ledger import (
    ERROR,
    MOST_DEATHS,
    MOST_FAILURES,
    PROGRESS,
    Ledger,
    TooManyFailures,
    clear_locks,
    take_ownership,
)
from seglab.studies.search.storage import StudyStorage
from tests.studies.ledgers import DATA, LR, open_ledger, states


def test_the_base_config_comes_first_and_the_count_is_the_one_asked_for(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    owner = take_ownership(ledger.storage, "s")
    claims = [ledger.claim(owner.path.name, 1) for _ in range(6)]
    begun = [claim for claim in claims if claim is not None]
    assert len(begun) == 4
    assert begun[0].is_base
    assert begun[0].params == {"optim.lr": 2e-3}
    assert len({claim.params["optim.lr"] for claim in begun}) == 4
    assert not ledger.finished()
    ledger.tell(begun[0].trial, TrialState.COMPLETE, [0.5])
    ledger.tell(begun[1].trial, TrialState.PRUNED)
    ledger.tell(begun[2].trial, TrialState.FAIL)
    ledger.tell(begun[3].trial, TrialState.COMPLETE, [0.6])
    assert not ledger.finished()  # a failed trial is made up for
    extra = ledger.claim(owner.path.name, 1)
    assert extra is not None
    ledger.tell(extra.trial, TrialState.COMPLETE, [0.7])
    assert ledger.finished()
    assert ledger.claim(owner.path.name, 1) is None


def test_a_dead_workers_trial_goes_on_with_its_number_and_parameters(tmp_path: Path) -> None:
    first = open_ledger(tmp_path)
    owner = take_ownership(first.storage, "s")
    base = first.claim(owner.path.name, 1)
    held = first.claim(owner.path.name, 1)
    assert base is not None
    assert held is not None
    second = open_ledger(tmp_path)
    heir = take_ownership(second.storage, "s")
    other = second.claim(heir.path.name, 2)
    assert other is not None
    assert other.trial.number == 2  # the living keep what they hold
    owner.release()
    taken = [second.claim(heir.path.name, 2) for _ in range(2)]
    assert [claim.trial.number for claim in taken if claim] == [0, 1]
    assert taken[1] is not None
    assert taken[1].params == held.params
    assert taken[1].threads == 1  # results repeat with the threads they began with
    assert taken[1].doomed is None


def test_a_killed_trial_goes_on_wherever_its_folder_and_whatever_its_machine_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_ledger(tmp_path / "before")
    owner = take_ownership(before.storage, "s")
    held = before.claim(owner.path.name, 1)
    assert held is not None
    owner.release()
    (tmp_path / "before").rename(tmp_path / "after")
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    after = open_ledger(tmp_path / "after")
    heir = take_ownership(after.storage, "s")
    taken = after.claim(heir.path.name, 1)
    assert taken is not None
    assert (taken.trial.number, taken.params) == (0, held.params)


def test_fewer_trials_than_were_begun_are_not_overshot(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, trials=4)
    owner = take_ownership(ledger.storage, "s")
    first, *_ = [ledger.claim(owner.path.name, 1) for _ in range(4)]
    assert first is not None
    ledger.tell(first.trial, TrialState.COMPLETE, [0.5])
    owner.release()
    fewer = open_ledger(tmp_path, trials=2)
    heir = take_ownership(fewer.storage, "s")
    taken = fewer.claim(heir.path.name, 1)
    assert taken is not None
    assert taken.trial.number == 1
    assert fewer.claim(heir.path.name, 1) is None
    more = open_ledger(tmp_path, trials=4)
    taken = more.claim(heir.path.name, 1)
    assert taken is not None
    assert taken.trial.number == 2  # put down, not lost


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    dooms = []
    for _ in range(MOST_DEATHS + 1):
        owner = take_ownership(ledger.storage, "s")
        claim = ledger.claim(owner.path.name, 1)
        assert claim is not None
        assert claim.trial.number == 0
        dooms.append(claim.doomed is not None)
        owner.release()
    assert dooms == [False] * MOST_DEATHS + [True]


def test_a_death_after_progress_or_a_clean_stop_does_not_count(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for epoch in range(6):
        owner = take_ownership(ledger.storage, "s")
        claim = ledger.claim(owner.path.name, 1)
        assert claim is not None
        assert claim.doomed is None
        if epoch % 2:
            ledger.release(claim.trial)
        else:
            claim.trial.set_user_attr(PROGRESS, {"epoch": epoch + 1, "epochs": 9, "dice": 0.1})
        owner.release()


def test_threads_with_a_storage_each_never_begin_a_trial_twice(tmp_path: Path) -> None:
    open_ledger(tmp_path, trials=9)
    claimed: list[int] = []

    def work() -> None:
        ledger = open_ledger(tmp_path, trials=9)
        owner = take_ownership(ledger.storage, "s")
        while (claim := ledger.claim(owner.path.name, 1)) is not None:
            claimed.append(claim.trial.number)
            ledger.tell(claim.trial, TrialState.COMPLETE, [0.1 * claim.trial.number])
        owner.remove()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(9))
    assert states(open_ledger(tmp_path, trials=9)) == ["COMPLETE"] * 9


def test_ten_failures_in_a_row_stop_the_search_and_a_success_forgives(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, trials=40)
    owner = take_ownership(ledger.storage, "s")

    def end(state: TrialState, values: list[float] | None = None) -> None:
        claim = ledger.claim(owner.path.name, 1)
        assert claim is not None
        if state == TrialState.FAIL:
            claim.trial.set_user_attr(ERROR, "out of memory")
        ledger.tell(claim.trial, state, values)

    for _ in range(MOST_FAILURES - 1):
        end(TrialState.FAIL)
    end(TrialState.COMPLETE, [0.5])
    for _ in range(MOST_FAILURES):
        end(TrialState.FAIL)
    with pytest.raises(TooManyFailures, match=r"10 trials failed in a row.*out of memory"):
        ledger.claim(owner.path.name, 1)
    later = Ledger(
        ledger.study,
        ledger.storage,
        ledger.space,
        ledger.search,
        datetime.now() + timedelta(seconds=1),
    )
    assert later.claim(owner.path.name, 1) is not None  # a new command tries again


def test_ten_failures_wait_for_what_may_end_better(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, trials=40)
    owner = take_ownership(ledger.storage, "s")
    running, *others = [ledger.claim(owner.path.name, 1) for _ in range(MOST_FAILURES + 1)]
    assert running is not None
    for claim in others:
        assert claim is not None
        claim.trial.set_user_attr(ERROR, "out of memory")
        ledger.tell(claim.trial, TrialState.FAIL)
    ledger.check_failures()
    ledger.release(running.trial)
    with pytest.raises(TooManyFailures):
        ledger.check_failures()
    ledger.tell(running.trial, TrialState.COMPLETE, [0.5])
    ledger.check_failures()
    assert ledger.claim(owner.path.name, 1) is not None


def test_a_grid_is_walked_once_and_then_is_finished(tmp_path: Path) -> None:
    ledger = open_ledger(
        tmp_path, sampler="grid", trials=50, space={"optim.lr": {"choices": [1e-3, 2e-3, 4e-3]}}
    )
    owner = take_ownership(ledger.storage, "s")
    tried = []
    while (claim := ledger.claim(owner.path.name, 1)) is not None:
        tried.append(claim.params["optim.lr"])
        state = TrialState.FAIL if len(tried) == 2 else TrialState.COMPLETE
        ledger.tell(claim.trial, state, None if state == TrialState.FAIL else [0.5])
    assert tried == [2e-3, 1e-3, 4e-3]
    assert ledger.finished()


def test_locks_of_the_dead_are_cleared_and_those_of_the_living_kept(tmp_path: Path) -> None:
    storage = open_ledger(tmp_path).storage
    alive, dead = take_ownership(storage, "s"), take_ownership(storage, "s")
    dead.release()
    clear_locks(storage, "s")
    assert alive.path.exists()
    assert not dead.path.exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"space": {"optim.lr": {**LR, "high": 0.05}}}, r"space\.optim\.lr was .*0\.1.*is .*0\.05"),
        ({"space": {"optim.lr": LR, "loss.name": {"choices": ["bce_dice"]}}}, "was absent"),
        ({"base": {"train": {"epochs": 3}}}, r"base\.train\.epochs was 14, is 3"),
        (
            {"data": SimpleNamespace(cache=SimpleNamespace(data_hash="e" * 64), split=DATA.split)},
            r"data\.content was",
        ),
        ({"second_objective": "parameters", "pruner": {"name": "none"}}, "second_objective was"),
    ],
)
def test_a_study_of_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    open_ledger(tmp_path)
    with pytest.raises(UserError, match=told):
        open_ledger(tmp_path, **change)
    assert states(open_ledger(tmp_path)) == ["WAITING"]


def test_more_trials_another_pruner_and_another_machine_are_no_change(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    local = {"data": {"source": "brats-h5", "root": "elsewhere", "workers": 3}}
    ledger = open_ledger(tmp_path, trials=9, pruner={"name": "none"}, base=local)
    assert states(ledger) == ["WAITING"]


def test_what_another_machine_gave_up_is_not_told_twice(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    owner = take_ownership(ledger.storage, "s")
    claim = ledger.claim(owner.path.name, 1)
    assert claim is not None
    other: StudyStorage = open_ledger(tmp_path).storage
    other.backend.set_trial_state_values(claim.trial._trial_id, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        ledger.tell(claim.trial, TrialState.COMPLETE, [0.5])
    ledger.release(claim.trial)
    assert states(ledger) == ["FAIL"]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "qmc"])
def test_samplers_propose_something_new_each_time_in_every_branch(
    tmp_path: Path, sampler: str
) -> None:
    space = {
        "optim.lr": LR,
        "loss.name": {"choices": ["bce_dice", "tversky"]},
        "loss.alpha": {"low": 0.3, "high": 0.8, "when": {"loss.name": "tversky"}},
    }
    rates = []
    for number in range(14):
        ledger = open_ledger(tmp_path, trials=14, sampler=sampler, space=space)  # a new process
        claim = ledger.claim(take_ownership(ledger.storage, "s").path.name, 1)
        assert claim is not None
        assert claim.trial.number == number
        assert ("loss.alpha" in claim.params) == (claim.params["loss.name"] == "tversky")
        rates.append(claim.params["optim.lr"])
        ledger.tell(claim.trial, TrialState.COMPLETE, [0.5 + 0.01 * (number % 5)])
    # A Gaussian process may come back to a noisy optimum; the others never do.
    assert len(set(rates[:4])) == 4
    assert sampler == "gp" or len(set(rates)) == 14
