"""Cores, memory, and progress bars of a process."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from seglab.core.machine import available_cores, progress, starting_workers

linux_only = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")


@linux_only
@pytest.mark.parametrize(
    ("said", "share"),
    [
        *(("max 100000", None), ("100000 100000", 1), ("150000 100000", 2), ("1000 100000", 1)),
        *(("", None), ("1 0", None), ("a b", None)),
    ],
)
def test_a_container_has_as_many_cores_as_its_share(
    tmp_path: Path, said: str, share: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(f"{said}\n")
    all_cores = len(os.sched_getaffinity(0))
    assert available_cores(tmp_path) == min(all_cores, share or all_cores)


@linux_only
def test_a_process_confined_to_a_core_has_one(tmp_path: Path) -> None:
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cores)})
    try:
        assert available_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, all_cores)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "disabled", "shows"),
    [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)],
    ids=["terminal", "shared terminal", "file"],
)
def test_a_bar_shows_on_a_terminal_that_is_ours(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], disabled: bool, shows: bool
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if disabled:
        monkeypatch.setenv("TQDM_DISABLE", "1")
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    for _ in progress(iter("abc"), "reading", total=3):
        time.sleep(0.5)
    assert ("reading" in shown.getvalue()) is shows
    assert shows or shown.getvalue() == ""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="not on Windows")
def test_ctrl_c_does_not_reach_a_worker_that_still_starts() -> None:
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=time.sleep, args=(0.1,))
    context.Event()  # as workers have; starts the process that tracks such things
    with starting_workers():
        worker.start()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    worker.join()
    assert worker.exitcode == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
