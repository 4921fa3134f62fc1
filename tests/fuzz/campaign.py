"""Runs a reader on many inputs in a process that may die, hang or swell, and tells if it did."""

from __future__ import annotations

import mmap
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz.memory import peak, reset_peak

SLOWEST_S = 10.0
"""An input that takes longer is a hang."""
LARGEST_BYTES = 2**28
"""An input that makes the process grow by more is out of proportion."""
ROOM_BYTES = 2**32
"""Address space beyond which a process may not grow, for the machine's sake."""
POLL_S = 0.5
MOST_SHOWN = 20


def try_one(name: str, number: int) -> None:
    """Run input ``number`` of a reader in this process."""
    from tests.fuzz.mutate import mutant
    from tests.fuzz.targets import TARGETS, refused

    refused.clear()
    target = TARGETS[name]
    target.read(mutant(number, target.seeds(), target.words))


def worker(name: str, first: int, runs: int, record: str) -> int:
    """Run inputs ``first`` to ``first + runs``, writing the one at hand into a shared file."""
    import tests.fuzz.targets  # noqa: F401  (its memory counts for nothing)

    with Path(record).open("r+b") as file, mmap.mmap(file.fileno(), 8) as at_hand:
        _limit_address_space()
        seen: set[str] = set()
        for number in range(first, first + runs):
            struct.pack_into("<q", at_hand, 0, number)
            before = reset_peak()
            try:
                try_one(name, number)
            except BaseException as error:
                _tell(name, number, error, seen)
            if (grown := peak() - before) > LARGEST_BYTES:
                print(f"FOUND {name} {number}: {grown:,} bytes more", flush=True)
        struct.pack_into("<q", at_hand, 0, first + runs)
    return 0


def hunt(name: str, first: int, runs: int) -> int:
    """Run a reader on numbered mutants; returns how many findings there were."""
    start, position, end, found = time.monotonic(), first, first + runs, 0
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record"
        while position < end:
            position, findings = _session(name, position, end, record)
            found += findings
    took = time.monotonic() - start
    print(f"{name}: {runs:,} inputs, {found} findings, {runs / took:,.0f} a second", flush=True)
    return found


def guided(name: str, runs: int) -> int:
    """Run a reader under atheris, which keeps inputs that reach new code."""
    from tests.fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(TARGETS[name].seeds()):
            (Path(folder) / str(number)).write_bytes(seed)
        limits = [f"-runs={runs}", f"-timeout={SLOWEST_S:.0f}", "-rss_limit_mb=2048"]
        command = [sys.executable, "-m", "tests.fuzz.guided", name, *limits, folder]
        return int(subprocess.run(command, check=False).returncode != 0)


def _session(name: str, first: int, end: int, record: Path) -> tuple[int, int]:
    """Let one process work until it ends, dies or hangs; returns where to go on, and findings."""
    record.write_bytes(struct.pack("<q", first))
    command = [sys.executable, "-m", "tests.fuzz", name, "--worker", str(record)]
    command += ["--first", str(first), "--runs", str(end - first)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    outcome = _watch(process, record)
    printed = process.communicate()[0]
    print(printed, end="", flush=True)
    found = printed.count("FOUND")
    number = _at_hand(record)
    if outcome is None:
        return end, found
    print(f"FOUND {name} {number}: {outcome}", flush=True)
    return number + 1, found + 1


def _watch(process: subprocess.Popen[str], record: Path) -> str | None:
    """Wait for the end; None if all went well, else what went wrong."""
    number, since = -1, time.monotonic()
    while process.poll() is None:
        time.sleep(POLL_S)
        now = _at_hand(record)
        if now != number:
            number, since = now, time.monotonic()
        # Starting takes a while, too.
        elif time.monotonic() - since > SLOWEST_S + 20 * (number == 0):
            process.kill()
            return "hangs"
    return None if process.returncode == 0 else f"the process ended with {process.returncode}"


def _at_hand(record: Path) -> int:
    return int(struct.unpack("<q", record.read_bytes())[0])


def _limit_address_space() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _tell(name: str, number: int, error: BaseException, seen: set[str]) -> None:
    """Print a finding once for each place that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/seglab/" in frame.filename] or frames
    key = f"{type(error).__name__} {ours[-1].filename}:{ours[-1].lineno}"
    if key in seen or len(seen) > MOST_SHOWN:
        return
    seen.add(key)
    reason = str(error).splitlines()[0][:200] if str(error) else ""
    print(f"FOUND {name} {number}: {key} {reason}", flush=True)
