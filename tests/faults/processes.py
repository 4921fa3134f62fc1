"""The processes of a command, and how they die."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol


class Running(Protocol):
    """A command, however it was started."""

    pid: int

    def poll(self) -> int | None:
        """Exit status, None while it runs."""


ALIVE_S = 60.0
"""How long those who lost their parent may take to notice."""


def descendants(pid: int) -> list[int]:
    """Process ids of all that ``pid`` has started, and what those have started."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def strike(process: Running, rng: random.Random) -> tuple[str, bool, list[int]]:
    """Send SIGKILL or SIGTERM to one of a command's processes, drawn by chance.

    Returns:
        The signal's name, whether the command itself was hit, and all of its processes.
    """
    below = descendants(process.pid)
    victim = process.pid if not below or rng.random() < 0.5 else rng.choice(below)
    number = rng.choice([signal.SIGKILL, signal.SIGTERM])
    with suppress(ProcessLookupError):
        os.kill(victim, number)
    return number.name, victim == process.pid, below


def outlived(process: Running, seconds: float) -> bool:
    """Let a command work so long; whether it ended by itself."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process.poll() is not None


def await_death(pids: list[int]) -> None:
    """Wait until none of these processes is left.

    Raises:
        AssertionError: one goes on without its parent.
    """
    deadline = time.monotonic() + ALIVE_S
    while alive := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"process {alive[0]} outlives its parent"
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    """Whether the process lives; one that has ended may wait for its end to be noted."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
