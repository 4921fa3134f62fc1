"""The worker processes of one command: started, replaced, stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from seglab.core.errors import UserError
from seglab.learning.batches import WORKERS_PER_GPU
from seglab.studies.search.worker import DONE, INTERRUPTED, SPENT, STOP, USER_ERROR, Task

ROOT = Path(__file__).resolve().parents[3]
_MODULE = "seglab.studies.search.worker"
_STOP_NOW_S = 20.0
_MOST_EARLY_DEATHS = 5
"""For each worker, one after the other."""
_EARLY_S = 120.0


class Crew:
    """``size`` workers; one that crashes, or is spent, is replaced.

    Each is the leader of its own process group: Ctrl-C reaches the parent alone,
    which tells them. When the parent dies, their standard input ends, and so do they.
    """

    def __init__(self, task: Task, size: int, gpus: list[str]) -> None:
        self._task, self._size, self._gpus = task, size, gpus
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._began: dict[int, float] = {}
        self._early_deaths = 0
        self._stopping = False
        for slot in range(size):
            self._start(slot)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return [worker.pid for worker in self._workers.values()]

    def _environment(self, slot: int) -> dict[str, str]:
        """What the worker in ``slot`` is given: its share of the cores, a GPU or part of one."""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        given = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(self._task.threads)}
        # Bars of several workers would run over each other and over the parent's own line.
        given["TQDM_DISABLE"] = "1"
        if self._gpus:
            place, count = slot % len(self._gpus), len(self._gpus)
            given["CUDA_VISIBLE_DEVICES"] = self._gpus[place]
            given[WORKERS_PER_GPU] = str(len(range(place, self._size, count)))
        return os.environ | given

    def _start(self, slot: int) -> None:
        worker = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            env=self._environment(slot),
            text=True,
            start_new_session=True,
        )
        self._workers[slot], self._began[slot] = worker, time.monotonic()
        self._tell(worker, self._task.to_line())

    @staticmethod
    def _tell(worker: subprocess.Popen[str], line: str) -> None:
        assert worker.stdin is not None
        with suppress(BrokenPipeError):  # it has just died; the next look will find it
            worker.stdin.write(line)
            worker.stdin.flush()

    def mend(self) -> bool:
        """Replace workers that ended before their time; False once none is left.

        Raises:
            UserError: a worker cannot go on, or workers die as soon as they start.
        """
        for slot, worker in list(self._workers.items()):
            code = worker.poll()
            if code is None:
                continue
            del self._workers[slot]
            if code == USER_ERROR:
                raise UserError("a worker cannot go on, for the reason it gave above")
            if code in (DONE, INTERRUPTED) or self._stopping:
                continue
            if code == SPENT:  # as often as trials fail, which the ledger limits
                self._early_deaths = 0
            else:
                self._note_death(slot, worker.pid, code)
            self._start(slot)
        return bool(self._workers)

    def _note_death(self, slot: int, pid: int, code: int) -> None:
        cause = f"signal {-code}" if code < 0 else f"status {code}"
        print(f"worker {pid} died ({cause}); another takes its place", file=sys.stderr)
        is_early = time.monotonic() - self._began[slot] < _EARLY_S
        self._early_deaths = self._early_deaths + 1 if is_early else 0
        if self._early_deaths > _MOST_EARLY_DEATHS * max(1, len(self._workers) + 1):
            raise UserError(
                f"{self._early_deaths} workers died one after the other, each within "
                f"{_EARLY_S / 60:.0f} minutes ({cause})"
            )

    def stop_after_epoch(self) -> None:
        """Ask every worker to end its epoch, put its trial down and leave."""
        self._stopping = True  # one that dies now is not to be replaced by one that was not told
        for worker in self._workers.values():
            self._tell(worker, STOP + "\n")

    def stop_now(self) -> None:
        """Interrupt every worker, and kill what has not left within seconds."""
        for worker in self._workers.values():
            assert worker.stdin is not None
            with suppress(BrokenPipeError):
                worker.stdin.close()
        deadline = time.monotonic() + _STOP_NOW_S
        for worker in self._workers.values():
            try:
                worker.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self._workers = {}
