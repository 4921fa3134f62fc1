"""Cores, memory, and progress bars of a process."""

from __future__ import annotations

import io
import os
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from seglab.core.machine import (
    available_cores,
    give_back_freed_memory,
    keep_freed_memory,
    progress,
)

BYTES = 2**26
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


def _filling() -> int:
    """Page faults of filling an array."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(BYTES, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these calls")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    keep_freed_memory()
    assert [_filling() for _ in range(5)][-1] < 0.01 * BYTES / resource.getpagesize()
    before = _resident_bytes()
    give_back_freed_memory()
    assert before - _resident_bytes() > 0.8 * BYTES


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
