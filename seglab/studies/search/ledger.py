"""Who does which trial: claimed under a lock, given up by the dead, counted once.

A trial that runs carries its owner's name. An owner holds a file lock for as long as
its process lives, so that on one machine a death is known at once; its trial keeps
its number, parameters and run, and goes on in the next worker from its checkpoint.
Of another machine only the heartbeat is known: when it stops, the trial has failed,
and a copy with the same parameters is queued, as its checkpoint is out of reach.
"""

from __future__ import annotations

import glob
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice, takewhile
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from seglab.core.errors import UserError
from seglab.core.locks import FileLock, is_locked
from seglab.core.search import Range, Search, Value
from seglab.studies.search.samplers import build_sampler
from seglab.studies.search.space import Params, Space
from seglab.studies.search.storage import StudyStorage

OWNER, BASE, RETRY_OF, THREADS = "owner", "base", "retry_of", "threads"
PROGRESS, ERROR, RUN = "progress", "error", "run_id"
_DEATHS, _DEATHS_AT = "deaths", "deaths_at_epoch"
MOST_DEATHS = 3
MOST_FAILURES = 10
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class TooManyFailures(UserError):
    """Trials fail one after the other: something is wrong with all of them."""


@dataclass(frozen=True)
class Claim:
    """A trial that is this worker's to do."""

    trial: Trial
    params: Params
    threads: int
    is_base: bool
    doomed: str | None = None
    """Why it is not to be tried again."""


@dataclass(frozen=True)
class Ledger:
    """The book of a study, as one process sees it."""

    study: optuna.Study
    storage: StudyStorage
    space: Space
    search: Search
    since: datetime
    """When the command started: failures before it do not stop it."""

    @cached_property
    def asked(self) -> int:
        """Trials that are to be complete or pruned at the end: a grid may have fewer points."""
        if self.search.sampler != "grid":
            return self.search.trials
        return sum(1 for _ in islice(self.space.grid(), self.search.trials))

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial, as the storage has it now; not to be changed."""
        return self.study.get_trials(deepcopy=False)

    def claim(self, owner: str, threads: int) -> Claim | None:
        """Take over a dead worker's trial, or begin the next; None while there is none.

        Raises:
            TooManyFailures: the last ten all failed.
        """
        with self.storage.lock("claim"):
            trials = self.trials
            _check_failures(trials, self.since)
            self.study.sampler = build_sampler(self.search, len(trials))
            running = [t for t in trials if t.state == TrialState.RUNNING]
            orphans = [t for t in running if self._is_orphan(t)]
            done = sum(t.state in DONE for t in trials)
            # Fewer may be asked for now than were begun: the rest of the orphans stays put down.
            if done + len(running) - len(orphans) >= self.search.trials:
                return None
            if orphans:
                return self._adopt(orphans[0], owner)
            return self._begin(owner, threads) if self._prepare_next(trials) else None

    def check_failures(self) -> None:
        """Raise if the last ten trials all failed, and none is at work that may end better.

        Raises:
            TooManyFailures: so it is.
        """
        trials = self.trials
        running = (t for t in trials if t.state == TrialState.RUNNING)
        if all(self._is_orphan(t) for t in running):
            _check_failures(trials, self.since)

    def finished(self) -> bool:
        """Whether as many trials as asked for have come to an end."""
        trials = self.trials
        if sum(t.state in DONE for t in trials) >= self.search.trials:
            return True
        alive = any(not t.state.is_finished() for t in trials)
        return not alive and self.search.sampler == "grid" and self._next_point(trials) is None

    def release(self, trial: Trial) -> None:
        """Put a trial down in good order: whoever comes next goes on with it."""
        with suppress(UpdateFinishedTrialError):  # another machine has given it up
            trial.set_user_attr(OWNER, None)

    def tell(self, trial: Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        """Record how a trial ended.

        Raises:
            UpdateFinishedTrialError: another machine had given it up.
        """
        with self.storage.lock("claim"):
            if self.storage.backend.get_trial(trial._trial_id).state != TrialState.RUNNING:
                raise UpdateFinishedTrialError(f"trial {trial.number} was given up")
            self.study.tell(trial, values, state)

    def silence(self, number: int) -> str:
        """Say what became of a trial that other machines gave up."""
        heirs = (t.number for t in self.trials if t.user_attrs.get(RETRY_OF) == number)
        heir = next((f"trial {heir:03d}" for heir in heirs), "another trial")
        return f"its machine went silent; {heir} repeats it"

    def keep_alive(self) -> None:
        """Give a sign of life for every trial of this machine, at work or waiting for a worker."""
        for frozen in self.trials:
            if frozen.state == TrialState.RUNNING and self._is_of_here(frozen):
                self.beat(frozen._trial_id)

    def beat(self, trial_id: int) -> None:
        """Give a sign of life, where the storage keeps them."""
        if isinstance(self.storage.backend, RDBStorage):
            self.storage.backend.record_heartbeat(trial_id)

    def _is_orphan(self, frozen: FrozenTrial) -> bool:
        """Whether nobody works on a running trial, as far as this machine can know.

        An owner is written under the lock: one who dies before that held it.
        """
        owner = frozen.user_attrs.get(OWNER)
        if owner is None:
            return True
        return self._is_of_here(frozen) and not is_locked(self.storage.folder / owner["lock"])

    def _is_of_here(self, frozen: FrozenTrial) -> bool:
        """Whether this machine can tell if a trial's owner lives.

        A journal lies beside the locks: whoever reads it has them, whatever the folder and the
        machine are called by now.
        """
        owner = frozen.user_attrs.get(OWNER)
        return owner is None or not self.storage.beats or owner["home"] == self.storage.home

    def _adopt(self, frozen: FrozenTrial, owner: str) -> Claim:
        epoch = frozen.user_attrs.get(PROGRESS, {}).get("epoch", 0)
        deaths = 0
        if frozen.user_attrs.get(OWNER) is not None:  # it was not put down in good order
            same = frozen.user_attrs.get(_DEATHS_AT) == epoch
            deaths = frozen.user_attrs.get(_DEATHS, 0) * same + 1
        trial = Trial(self.study, frozen._trial_id)
        self._own(trial, owner)
        trial.set_user_attr(_DEATHS, deaths)
        trial.set_user_attr(_DEATHS_AT, epoch)
        doomed = (
            f"its worker died {deaths} times in the same epoch" if deaths >= MOST_DEATHS else None
        )
        return self._claim(trial, frozen.user_attrs.get(THREADS, 0), doomed)

    def _begin(self, owner: str, threads: int) -> Claim:
        trial = self.study.ask()
        self._own(trial, owner)
        return self._claim(trial, threads, None)

    def _own(self, trial: Trial, owner: str) -> None:
        self.beat(trial._trial_id)
        trial.set_user_attr(OWNER, {"home": self.storage.home, "lock": owner})

    def _claim(self, trial: Trial, threads: int, doomed: str | None) -> Claim:
        params = self.space.suggest(lambda key, domain: _suggest(trial, key, domain))
        attributes = trial.user_attrs
        if THREADS not in attributes:
            trial.set_user_attr(THREADS, threads)
        return Claim(
            trial=trial,
            params=params,
            threads=attributes.get(THREADS, threads),
            is_base=bool(attributes.get(BASE)),
            doomed=doomed,
        )

    def _prepare_next(self, trials: Sequence[FrozenTrial]) -> bool:
        """On a grid, queue its next point; False where there is none left."""
        if self.search.sampler != "grid" or any(t.state == TrialState.WAITING for t in trials):
            return True
        point = self._next_point(trials)
        if point is not None:
            self.study.enqueue_trial(point)
        return point is not None

    def _next_point(self, trials: Sequence[FrozenTrial]) -> Params | None:
        tried = [fixed_params(t) for t in trials]
        return next((point for point in self.space.grid() if point not in tried), None)


def _check_failures(trials: Sequence[FrozenTrial], since: datetime) -> None:
    ended = sorted(
        (t for t in trials if t.datetime_complete and t.datetime_complete >= since),
        key=lambda t: (t.datetime_complete, t.number),
        reverse=True,
    )
    failed = list(takewhile(lambda t: t.state == TrialState.FAIL and ERROR in t.user_attrs, ended))
    if len(failed) >= MOST_FAILURES:
        raise TooManyFailures(
            f"stopped: {len(failed)} trials failed in a row; the last, trial "
            f"{failed[0].number:03d}: {failed[0].user_attrs[ERROR]}"
        )


def fixed_params(trial: FrozenTrial) -> dict[str, Any]:
    """Params of a trial, those of a queued one included."""
    return dict(trial.system_attrs.get("fixed_params", {})) | dict(trial.params)


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a copy of a trial that a silent machine held."""
    attributes = {key: trial.user_attrs[key] for key in (BASE,) if key in trial.user_attrs}
    study.enqueue_trial(fixed_params(trial), user_attrs={**attributes, RETRY_OF: trial.number})


def take_ownership(storage: StudyStorage, name: str) -> FileLock:
    """Hold this process's lock; its file name is what trials carry as their owner."""
    lock = FileLock(storage.folder / f"{name}.worker-{uuid.uuid4().hex[:12]}")
    lock.acquire(wait_s=10)
    return lock


def clear_locks(storage: StudyStorage, name: str) -> None:
    """Remove the lock files of processes that died."""
    for path in storage.folder.glob(f"{glob.escape(name)}.worker-*"):
        lock = FileLock(path)
        if lock.try_acquire():
            lock.remove()


def _suggest(trial: Trial, key: str, domain: Range) -> Value:
    if domain.choices is not None:
        choice: Value = trial.suggest_categorical(key, domain.choices)
        return choice
    assert domain.low is not None
    assert domain.high is not None
    if domain.integer:
        step = int(domain.step or 1)
        high = int(domain.low) + (int(domain.high) - int(domain.low)) // step * step
        return trial.suggest_int(key, int(domain.low), high, step=step, log=domain.log)
    high_f = domain.high
    if domain.step:
        steps = int((domain.high - domain.low) / domain.step + 1e-9)
        high_f = domain.low + steps * domain.step
    return trial.suggest_float(key, domain.low, high_f, step=domain.step, log=domain.log)
