"""The queue of arms and trials: each item once, through deaths, interruptions and races."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
from optuna.trial import Trial

from seglab.core.errors import UserError
from seglab.studies.queue import (
    DATABASE,
    DONE,
    ITEM,
    OUR_FAULT,
    OWNER,
    SPENT,
    NotOurs,
    Queue,
    Worker,
    open_storage,
)

KEYS = [f"item {number}" for number in range(6)]


@dataclass
class Listed:
    """Items that a function does."""

    do: Callable[[Trial, str], float]
    wanted: list[str] = field(default_factory=lambda: list(KEYS))

    def keys(self, states: object) -> list[str]:
        return self.wanted

    def new(self, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {}


def _queue(folder: Path, before: frozenset[int] | None = None, heartbeat_s: int = 20) -> Queue:
    storage = open_storage(None, folder, heartbeat_s)
    study = optuna.create_study(storage=storage, study_name="items", load_if_exists=True)
    return Queue(study, Worker(folder).__enter__(), before)


def _run(queue: Queue, do: Callable[[Trial, str], float], keys: list[str] = KEYS) -> int:
    return queue.run(Listed(do, keys), stop=lambda: False)


def test_every_item_is_done_once_in_order(tmp_path: Path) -> None:
    queue, seen = _queue(tmp_path), []
    assert _run(queue, lambda trial, key: seen.append(key) or 1.0) == DONE
    assert seen == KEYS
    assert {state.word for state in queue.states().values()} == {"done"}
    assert not queue.run_next(Listed(lambda trial, key: 1.0))


CRASH = "CUDA error at postgresql://me:secret@host"


@pytest.mark.parametrize(
    ("error", "word", "told"),
    [
        (optuna.TrialPruned(), "done", "not done"),
        (UserError("no such loss"), "failed", "no such loss"),
        (RuntimeError(CRASH), "failed", "RuntimeError: CUDA error at postgresql://***@host"),
    ],
)
def test_an_error_ends_its_item_until_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, word: str, told: str
) -> None:
    queue, fail = _queue(tmp_path), Mock(side_effect=error)
    is_ours = isinstance(error, RuntimeError)
    assert _run(queue, fail, KEYS[:1]) == (SPENT if is_ours else DONE)
    state = queue.states()[KEYS[0]]
    assert (state.word, state.error) == (word, told)
    assert (OUR_FAULT in state.last.user_attrs) is is_ours
    assert ("Traceback" in capsys.readouterr().err) is is_ours
    assert not queue.run_next(Listed(fail, KEYS[:1]))
    later = _queue(tmp_path)
    assert later.states()[KEYS[0]].word == ("done" if word == "done" else "open")
    _run(later, lambda trial, key: 1.0, KEYS[:1])
    assert later.states()[KEYS[0]].word == "done"


def test_a_full_disk_ends_the_queue_and_leaves_its_item_open(tmp_path: Path) -> None:
    queue, full = _queue(tmp_path), UserError("the store cannot be used")
    full.__cause__ = OSError(errno.ENOSPC, "full")
    with pytest.raises(UserError, match="the store"):
        _run(queue, Mock(side_effect=full))
    assert queue.states()[KEYS[0]].word == "open"


# Optuna's thread of heartbeats finds the storage broken too, if it looks in time.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_storage_that_breaks_during_an_item_is_named(tmp_path: Path) -> None:
    queue = _queue(tmp_path)

    def destroy(trial: Trial, key: str) -> float:
        (tmp_path / DATABASE).write_bytes(bytes(4096))
        trial.report(0.5, 1)
        return 1.0

    with pytest.raises(UserError, match=rf"{DATABASE}.* cannot be used"):
        _run(queue, destroy)
    with pytest.raises(UserError, match="cannot be used"):
        queue.is_active()


def test_an_interrupted_item_is_open_again_with_its_parameters(tmp_path: Path) -> None:
    queue, drawn = _queue(tmp_path), []

    def draw(trial: Trial, key: str) -> float:
        drawn.append(trial.suggest_float("lr", 0, 1))
        if len(drawn) == 1:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        _run(queue, draw, KEYS[:1])
    state = queue.states()[KEYS[0]]
    assert (state.word, state.error) == ("open", "not done")
    _run(queue, draw, KEYS[:1])
    assert drawn[0] == drawn[1]
    assert queue.states()[KEYS[0]].word == "done"


def _work(folder: str, dies_at: str | None, elsewhere: bool = False) -> None:
    """Do every item; die at one, ``elsewhere`` under a name that this machine cannot judge."""
    queue = _queue(Path(folder), heartbeat_s=1 if elsewhere else 20)
    if elsewhere:
        queue.worker.name = "another-host-1"

    def do(trial: Trial, key: str) -> float:
        if key == dies_at:
            time.sleep(2 * elsewhere)  # time for a heartbeat
            os.kill(os.getpid(), signal.SIGKILL)
        with (Path(folder) / "log").open("a") as file:
            file.write(f"{key}\n")
        time.sleep(0.02)
        return 1.0

    _run(queue, do)


def _start(*arguments: object) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=_work, args=arguments)
    process.start()
    return process


def test_workers_share_the_items_and_take_up_what_a_dead_one_left(tmp_path: Path) -> None:
    first = _start(str(tmp_path), KEYS[2])
    first.join()
    assert first.exitcode == -signal.SIGKILL
    others = [_start(str(tmp_path), None) for _ in range(2)]
    for process in others:
        process.join()
        assert process.exitcode == 0
    done = Counter((tmp_path / "log").read_text().split("\n")[:-1])
    assert done == dict.fromkeys(KEYS, 1)


@pytest.mark.slow
def test_a_stale_item_of_another_machine_is_taken_up(tmp_path: Path) -> None:
    queue = _queue(tmp_path, heartbeat_s=1)
    _start(str(tmp_path), KEYS[0], True).join()
    done: list[str] = []
    _run(queue, lambda trial, key: done.append(key) or 1.0, KEYS[:1])
    assert done == [KEYS[0]]


def test_an_item_whose_worker_dies_again_and_again_fails(tmp_path: Path) -> None:
    queue = _queue(tmp_path)
    for number in range(4):
        dead = f"{socket.gethostname()}-{number}"
        (tmp_path / "workers" / f"{dead}.lock").touch()
        queue.study.enqueue_trial({}, user_attrs={ITEM: KEYS[0], OWNER: dead})
        queue.study.ask()
        assert queue.states()[KEYS[0]].word == "active"
        queue.run_next(Listed(lambda trial, key: 1.0, []))  # looks for dead workers
        assert queue.states()[KEYS[0]].word == ("failed" if number == 3 else "open")
    assert "died" in queue.states()[KEYS[0]].error


def test_old_locks_of_killed_workers_are_removed(tmp_path: Path) -> None:
    queue, folder = _queue(tmp_path), tmp_path / "workers"
    for name in ("new", "old"):
        (folder / f"{name}.lock").touch()
    for name in ("old", queue.worker.name):
        os.utime(folder / f"{name}.lock", (0, 0))
    with Worker(tmp_path) as worker:
        left = {path.stem for path in folder.iterdir()}
    assert left == {"new", queue.worker.name, worker.name}


def test_the_later_of_two_trials_of_one_item_steps_back(tmp_path: Path) -> None:
    queue, seen = _queue(tmp_path), []
    for _ in range(2):  # as two workers do that look at the same moment
        queue.study.enqueue_trial({}, user_attrs={ITEM: KEYS[0]})
    _run(queue, lambda trial, key: seen.append(key) or 1.0)
    assert sorted(seen) == KEYS
    assert len(queue.trials) == len(KEYS)


def test_an_item_of_others_stays_open_and_is_not_waited_for(tmp_path: Path) -> None:
    queue, other = _queue(tmp_path), "of another process"
    queue.study.enqueue_trial({}, user_attrs={ITEM: other})

    def do(trial: Trial, key: str) -> float:
        if key == other:
            raise NotOurs
        queue.study.ask().set_user_attr(ITEM, other)  # which that process does
        return 1.0

    assert _run(queue, do, KEYS[:1]) == DONE
    assert queue.states()[other].word == "active"


def test_a_storage_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        open_storage("postgresql+psycopg://user:secret@127.0.0.1:1/db", tmp_path, 20)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Not a directory|File exists"):
        open_storage(None, tmp_path / "file", 20)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match="the extra 'postgres'"):
        open_storage("postgresql+psycopg://user@127.0.0.1:1/db", tmp_path, 20)
