"""The queue of arms and trials: each item once, through deaths, interruptions and races."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import Trial

from seglab.core.errors import UserError
from seglab.studies.queue import ITEM, ItemFailed, Queue, Worker, open_storage

KEYS = [f"item {number}" for number in range(6)]


def _queue(folder: Path, since: datetime | None = None, heartbeat_s: int = 20) -> Queue:
    storage = open_storage(None, folder, heartbeat_s)
    study = optuna.create_study(storage=storage, study_name="items", load_if_exists=True)
    return Queue(study, Worker.register(folder), since or datetime.now())


def _nothing(key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return {}, {}


def _drain(queue: Queue, objective: Any) -> None:
    while queue.run_next(KEYS, objective, _nothing) or queue.is_active():
        time.sleep(0.01)


def _one(trial: Trial, key: str) -> float:
    return 1.0


def test_every_item_is_done_once_in_order(tmp_path: Path) -> None:
    queue, seen = _queue(tmp_path), []

    def objective(trial: Trial, key: str) -> float:
        seen.append(key)
        return float(len(seen))

    _drain(queue, objective)
    assert seen == KEYS
    assert {state.word for state in queue.states().values()} == {"done"}
    assert not queue.run_next(KEYS, objective, _nothing)


def test_a_pruned_item_is_done(tmp_path: Path) -> None:
    queue = _queue(tmp_path)

    def prune(trial: Trial, key: str) -> float:
        raise optuna.TrialPruned

    assert queue.run_next(KEYS[:1], prune, _nothing)
    assert queue.states()[KEYS[0]].word == "done"


def test_a_failure_ends_its_item_until_the_next_command(tmp_path: Path) -> None:
    queue = _queue(tmp_path)

    def fail(trial: Trial, key: str) -> float:
        raise ItemFailed("no such loss")

    assert queue.run_next(KEYS[:1], fail, _nothing)
    state = queue.states()[KEYS[0]]
    assert (state.word, state.error) == ("failed", "no such loss")
    assert not queue.run_next(KEYS[:1], fail, _nothing)
    later = _queue(tmp_path, datetime.now() + timedelta(seconds=1))
    assert later.states()[KEYS[0]].word == "open"
    assert later.run_next(KEYS[:1], _one, _nothing)
    assert later.states()[KEYS[0]].word == "done"


def test_an_interrupted_item_is_open_again_with_its_parameters(tmp_path: Path) -> None:
    queue, drawn = _queue(tmp_path), []

    def draw(trial: Trial, key: str) -> float:
        drawn.append(trial.suggest_float("lr", 0, 1))
        if len(drawn) == 1:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        queue.run_next(KEYS[:1], draw, _nothing)
    assert queue.states()[KEYS[0]].word == "open"
    assert queue.run_next(KEYS[:1], draw, _nothing)
    assert drawn[0] == drawn[1]
    assert queue.states()[KEYS[0]].word == "done"


def _work(folder: str, log: str, dies_at: str | None) -> None:
    def objective(trial: Trial, key: str) -> float:
        if key == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with Path(log).open("a") as file:
            file.write(f"{key}\n")
        time.sleep(0.02)
        return 1.0

    queue = _queue(Path(folder))
    _drain(queue, objective)
    queue.worker.close()


def _start(folder: Path, dies_at: str | None = None) -> Any:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(str(folder), str(folder / "log"), dies_at))
    process.start()
    return process


def test_workers_share_the_items_and_take_up_what_a_dead_one_left(tmp_path: Path) -> None:
    first = _start(tmp_path, dies_at=KEYS[2])
    first.join()
    assert first.exitcode == -signal.SIGKILL
    others = [_start(tmp_path) for _ in range(2)]
    for process in others:
        process.join()
        assert process.exitcode == 0
    done = Counter((tmp_path / "log").read_text().split("\n")[:-1])
    assert done == dict.fromkeys(KEYS, 1)


def test_an_item_whose_worker_dies_again_and_again_fails(tmp_path: Path) -> None:
    since = datetime.now()
    for _ in range(4):
        process = _start(tmp_path, dies_at=KEYS[0])
        process.join()
    queue = _queue(tmp_path, since)
    queue.run_next([], _one, _nothing)  # looks for the dead
    assert queue.states()[KEYS[0]].word == "failed"
    assert "died" in queue.states()[KEYS[0]].error


def test_the_later_of_two_trials_of_one_item_steps_back(tmp_path: Path) -> None:
    queue, seen = _queue(tmp_path), []
    for _ in range(2):  # as two workers do that look at the same moment
        queue.study.enqueue_trial({}, user_attrs={ITEM: KEYS[0]})

    def objective(trial: Trial, key: str) -> float:
        seen.append(key)
        return 1.0

    _drain(queue, objective)
    assert sorted(seen) == KEYS
    assert len(queue.trials) == len(KEYS)


@pytest.mark.slow
def test_a_stale_item_of_another_machine_is_taken_up(tmp_path: Path) -> None:
    queue = _queue(tmp_path, heartbeat_s=1)
    process = _start_elsewhere(tmp_path)
    process.join()
    deadline = time.monotonic() + 60
    done: list[str] = []

    def objective(trial: Trial, key: str) -> float:
        done.append(key)
        return 1.0

    while queue.states().get(KEYS[0]) is None or queue.states()[KEYS[0]].word != "done":
        assert time.monotonic() < deadline
        queue.run_next(KEYS[:1], objective, _nothing)
        time.sleep(0.2)
    assert done == [KEYS[0]]


def _start_elsewhere(folder: Path) -> Any:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_die_elsewhere, args=(str(folder),))
    process.start()
    return process


def _die_elsewhere(folder: str) -> None:
    """Die with an item, under a name that this machine cannot judge."""
    queue = _queue(Path(folder), heartbeat_s=1)
    stranger = Queue(queue.study, Worker("another-host-1", queue.worker.lock), queue.since)

    def die(trial: Trial, key: str) -> float:
        time.sleep(2)  # time for a heartbeat
        os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    stranger.run_next(KEYS[:1], die, _nothing)


def test_a_storage_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="postgresql"):
        open_storage("mysql://host/db", tmp_path, 20)
    with pytest.raises(UserError, match="cannot be reached"):
        open_storage("postgresql+psycopg://user:secret@127.0.0.1:1/db", tmp_path, 20)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"part of its path is a file|in its place"):
        open_storage(None, tmp_path / "file", 20)
