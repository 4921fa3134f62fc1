"""Worker processes that share out the items of a queue over cores and GPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.core.machine import available_cores, end_with_parent, starting_workers, tell
from seglab.core.study import Study, resolve_study
from seglab.learning.batches import WORKERS_PER_GPU
from seglab.studies.data import SharedData
from seglab.studies.experiment import Interrupted
from seglab.studies.queue import DONE, SPENT, Items, Queue, open_queue
from seglab.tracking.connect import open_store
from seglab.tracking.errors import is_out_of_space, redact
from seglab.tracking.run import RunLog
from seglab.tracking.store import Store

USER_ERROR, INTERRUPTED = 2, 130
"""Exit status of a worker, beside ``DONE`` and ``SPENT``."""
_LOOK_S, _STOP_S = 0.5, 30.0
_MAX_DEATHS = 20
"""Of each place; an item is retried three times, so many items have to kill their workers."""


@dataclass
class StopRequest:
    """Whether the work is to stop: on Ctrl-C, on SIGTERM, or when its time is over."""

    deadline: float | None = None
    """Of ``time.monotonic``."""
    interrupts: int = 0
    _told: bool = field(default=False, repr=False)

    def __call__(self) -> bool:
        """Whether no further epoch is to begin; says so and why, once."""
        timed_out = self.deadline is not None and time.monotonic() > self.deadline
        if not (self.interrupts or timed_out):
            return False
        if not self._told:
            self._told = True
            why = "stopping" if self.interrupts else "the time is up: stopping"
            tell(
                f"{why} once each worker has ended its epoch; the same command continues "
                "(Ctrl-C again stops now)"
            )
        return True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count Ctrl-C and SIGTERM instead of breaking off; only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.interrupts += 1
            if self.interrupts > 1:
                raise KeyboardInterrupt

        before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Task:
    """What a worker is told; picklable."""

    items: Callable[[Context], Items]
    """Module-level function."""
    document: Mapping[str, Any]
    """The resolved experiment file."""
    parent_run_id: str
    study_name: str
    before: frozenset[int]
    """Trials that had ended when the command started."""
    threads: int
    """Processor threads of each run; 0 leaves it to the config."""
    values: Mapping[str, Any] | None = None
    """Tuned values of each arm; None while they are not known."""


@dataclass(frozen=True)
class Context:
    """What a worker has at hand."""

    task: Task
    study: Study
    store: Store
    queue: Queue
    data: SharedData
    stop: Callable[[], bool]


def run_items(
    items: Callable[[Context], Items],
    study: Study,
    parent: RunLog,
    queue: Queue,
    data: SharedData,
    workers: int,
    *,
    values: Mapping[str, Any] | None = None,
    look: Callable[[], None] = lambda: None,
    deadline: float | None = None,
) -> Context:
    """Have items done, in this process or by several; returns what this process had at hand.

    ``look`` is called meanwhile, to show progress. At ``deadline``, of ``time.monotonic``, items
    are interrupted, to be continued.

    Raises:
        UserError: a worker cannot go on, or workers die again and again.
        KeyboardInterrupt: stopped by the user, all in good order.
    """
    store, stop = parent.store, StopRequest(deadline)
    threads = _share_of_threads(workers, study.run.train.threads)
    name, before = queue.study.study_name, queue.before
    task = Task(items, study.document, parent.run_id, name, before, threads, values)
    context = Context(task, study, store, queue, data, stop)
    with queue.worker, stop.listening():
        try:
            if is_spent := workers > 1:
                tell(f"starting {workers} workers …")
            with suppress(Interrupted):
                is_spent = is_spent or queue.run(items(context), stop, look) == SPENT
            if is_spent:
                _Pool(task, workers, _visible_gpus(study.run.train.device)).run(stop, look)
        finally:
            # A run of another machine, on a shared server, may live while an item is active.
            is_over = False
            with suppress(UserError):  # of a storage that is away; what ended the work says so
                is_over = not queue.is_active()
            for run in store.find_runs(parent_run_id=parent.run_id, statuses=["RUNNING"]):
                store.mark_interrupted(run.run_id, "its worker died", dead=is_over)
    if stop.interrupts:
        raise KeyboardInterrupt
    return context


class _Pool:
    """Worker processes; one that crashes, or is spent, is replaced."""

    def __init__(self, task: Task, count: int, gpus: list[str]) -> None:
        self._task, self._count, self._gpus = task, count, gpus
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        """Asks every worker to leave at the end of its epoch."""
        self._workers: dict[int, BaseProcess] = {}
        self._deaths = 0

    def run(self, stop: Callable[[], bool], look: Callable[[], None]) -> None:
        """Let the workers do items until none is left, or they were asked to leave."""
        try:
            for slot in range(self._count):
                self._start(slot)
            while self._restart_dead():
                if stop():
                    self._stop.set()
                look()
                time.sleep(_LOOK_S)
            look()
        finally:
            self._end()

    def _start(self, slot: int) -> None:
        """Start a worker with its share of the cores, and a GPU or part of one."""
        # Bars of several workers would overwrite each other and the parent's own line.
        given = {"TQDM_DISABLE": "1"}
        if self._task.threads:
            given["OMP_NUM_THREADS"] = str(self._task.threads)
        if self._gpus:
            place, count = slot % len(self._gpus), len(self._gpus)
            given["CUDA_VISIBLE_DEVICES"] = self._gpus[place]
            given[WORKERS_PER_GPU] = str(len(range(place, self._count, count)))
        before = dict(os.environ)
        os.environ.update(given)
        try:
            worker = self._context.Process(target=_main, args=(self._task, self._stop))
            with starting_workers():
                worker.start()
        finally:
            for name in given:
                del os.environ[name]
            os.environ.update(before)
        self._workers[slot] = worker

    def _restart_dead(self) -> bool:
        """Replace workers that ended before the work did; False once none is left."""
        for slot, worker in list(self._workers.items()):
            code = worker.exitcode
            if code is None:
                continue
            del self._workers[slot]
            if code == USER_ERROR:
                raise UserError("a worker cannot go on, for the reason it gave above")
            if code in (DONE, INTERRUPTED) or self._stop.is_set():
                continue
            if code != SPENT:
                self._deaths += 1
                cause = f"signal {-code}" if code < 0 else f"status {code}"
                tell(f"worker {worker.pid} died ({cause}); another is started")
                if self._deaths > _MAX_DEATHS * self._count:
                    raise UserError(f"{self._deaths} workers died; the last: {cause}")
            self._start(slot)
        return bool(self._workers)

    def _end(self) -> None:
        """Interrupt every worker, and kill what has not left within seconds."""
        for worker in self._workers.values():
            worker.terminate()
        deadline = time.monotonic() + _STOP_S
        for worker in self._workers.values():
            worker.join(max(0.1, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()


def _main(task: Task, stop: Any) -> None:
    """Run in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as starting_workers
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_with_parent()
    # What is printed on stdout would mix with the parent's answer.
    sys.stdout = sys.stderr
    try:
        study, store = resolve_study(task.document), open_store()
        queue = open_queue(study, store.folder, task.study_name, task.before)
        with queue.worker:
            context = Context(task, study, store, queue, SharedData(warn=False), stop.is_set)
            code = queue.run(task.items(context), stop.is_set)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if not isinstance(error, UserError) and not is_out_of_space(error):
            raise
        tell(redact(f"worker {os.getpid()}: {error}"))
        code = USER_ERROR
    sys.exit(code)


def _share_of_threads(workers: int, wanted: int) -> int:
    """Processor threads of each of several workers; 0, the config's own choice, for one."""
    if workers == 1:
        return 0
    cores = available_cores()
    if workers > cores:
        tell(f"warning: {workers} workers on {cores} cores slow each other down")
    return wanted or max(1, cores // workers)


def with_threads(config: RunConfig, threads: int) -> RunConfig:
    """Give a run its share of processor threads; 0 leaves it the config's own choice."""
    train = config.train.model_copy(update={"threads": threads or config.train.threads})
    return config.model_copy(update={"train": train})


def _visible_gpus(device: str) -> list[str]:
    """Name the GPUs to share out among workers, as CUDA_VISIBLE_DEVICES does."""
    if device not in {"auto", "cuda"}:
        return []
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = given.split(",") if given else [str(i) for i in range(count)]
    return names[:count]
