"""The clock goes back, files of the data change, memory runs out, two people promote at once."""

from __future__ import annotations

import os
import random
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import yaml

from tests.faults.holdings import differences, read_holdings
from tests.faults.kills import check_store
from tests.faults.processes import descendants, outlived
from tests.faults.registry import fault
from tests.faults.workshop import COMMANDS, ROOT, Ended, Workshop

BACK_S = 7200
CLOCK = Path(__file__).with_name("clock.c")
HUNGRY = """
import sys
from seglab.cli import {module}
from seglab.learning import training
step, count = training.train_step, 0

def hungry(*arguments):
    global count
    count += 1
    if count == {number}:
        raise MemoryError("cannot allocate")
    return step(*arguments)

training.train_step = hungry
sys.exit({module}.main([{file!r}, "--json"]))
"""
"""The real command, in which one step of training finds no memory."""


LIMITED = """
import os, resource, shlex
resource.setrlimit(resource.RLIMIT_AS, ({0}, {0}))
command = shlex.split({1!r})
os.execv(command[0], command)
"""
"""A command with so little address space."""
KB = 1024
SPARE_KB = 256 * KB


@fault("clock-back", repeats=4)
def clock_back(shop: Workshop, rng: random.Random) -> Counter[str]:
    """The clock jumps back by two hours while a run works, which is then killed and continued."""
    library = shop.folder / "clock.so"
    if not library.exists():
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(CLOCK), "-ldl"]
        subprocess.run(command, check=True)
    seconds = shop.undisturbed("run").seconds
    place = shop.place()
    start = time.clock_gettime(time.CLOCK_MONOTONIC)
    moment = start + rng.uniform(0.2, 1.5) * seconds
    place.environment |= {
        "LD_PRELOAD": str(library),
        "CLOCK_BACK_S": str(BACK_S),
        "CLOCK_BACK_AT": str(int(moment)),
    }
    process = place.start(COMMANDS["run"], anew=True)
    kills = 0
    if not outlived(process, rng.uniform(1.0, 3.0) * seconds):
        process.kill()
        process.wait()
        kills = 1
    ended = place.wait(place.start(COMMANDS["run"], anew=True))
    assert ended.status == 0, f"ended with {ended.status}: {ended.err[-1500:]}"
    check_store(place, shop, "run")
    return Counter({"jumps": 1, "kills": kills})


@fault("data-changed", repeats=6)
def data_changed(shop: Workshop, rng: random.Random) -> Counter[str]:
    """A file of the data is changed, cut or removed while a run trains on it."""
    seconds = shop.undisturbed("run").seconds
    place = shop.place()
    data = place.folder / "data"
    shutil.copytree(shop.phantoms, data)
    document = yaml.safe_load((place.folder / "run.yaml").read_text())
    document["data"] |= {"root": str(data), "cache": str(place.folder / "cache")}
    (place.folder / "run.yaml").write_text(yaml.safe_dump(document))
    process = place.start(COMMANDS["run"])
    while "epoch   1/" not in place.said() and not outlived(process, 0.05):
        pass
    victim = rng.choice(sorted(data.rglob("*.h5")))
    how = rng.choice(["removed", "cut", "changed"])
    content, times = victim.read_bytes(), victim.stat()
    outlived(process, rng.uniform(0, 0.5) * seconds)
    if how == "removed":
        victim.unlink()
    else:
        victim.write_bytes(content[:500] if how == "cut" else rng.randbytes(len(content)))
    ended = place.wait(process)
    assert ended.status == 0, f"ended with {ended.status}: {ended.err[-1500:]}"
    check_told(place.end(COMMANDS["run"]), how, victim)
    victim.write_bytes(content)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    place.finish(COMMANDS["run"])
    reference, found = shop.undisturbed("run").holdings, read_holdings(place.folder / "mlruns")
    whole = reference.runs[0]["tags"]["data_hash"]
    kept = tuple(run for run in found.runs if run["tags"]["data_hash"] == whole)
    lines = differences(reference, replace(found, runs=kept))
    lines = [line for line in lines if "params" not in line and "artifacts" not in line]
    assert not lines, "; ".join(lines)[:2000]
    shop.clear(place)
    return Counter({how: 1})


def check_told(ended: Ended, how: str, victim: Path) -> None:
    """Check what is said of data that are not what they were.

    A file that is damaged is refused. One that is gone is a half-finished download: counted and
    named, and what is left is trained on, as a run of other data.
    """
    told = ended.err.splitlines()
    if how == "removed":
        assert ended.status == 0, f"a removed file gives {ended.status}: {ended.err[-800:]}"
        assert told[0].startswith("warning: "), told[0]
        assert f"lacks 1 files of its set, {victim.name} the first" in told[0]
    else:
        assert ended.status == 2, f"a {how} file gives {ended.status}: {ended.err[-800:]}"
        assert len(told) == 1, ended.err


@fault("no-memory-run", repeats=4)
def no_memory_run(shop: Workshop, rng: random.Random) -> Counter[str]:
    """A step of a run finds no memory; the same command continues it."""
    place = shop.place()
    number = rng.randint(1, 20)
    code = HUNGRY.format(module="train", file="run.yaml", number=number)
    ended = place.end(["-c", code])
    assert ended.status == 1, f"ended with {ended.status}: {ended.err[-800:]}"
    place.finish(COMMANDS["run"])
    found = read_holdings(place.folder / "mlruns")
    finished = [run for run in found.runs if run["status"] == "FINISHED"]
    assert finished == list(shop.undisturbed("run").holdings.runs)
    assert {run["status"] for run in found.runs} <= {"FINISHED", "FAILED"}
    shop.clear(place)
    return Counter({"out of memory": 1, "run anew": len(found.runs) - 1})


@fault("no-memory-trial", repeats=2)
def no_memory_trial(shop: Workshop, rng: random.Random) -> Counter[str]:
    """A trial wants more memory than there is; it fails, and the search goes on without it."""
    place = shop.place()
    document = yaml.safe_load((place.folder / "sweep.yaml").read_text())
    widths = [4, rng.choice([64, 72]), 6]
    space = {"model.base_channels": {"choices": widths}}
    document["search"] |= {"sampler": "grid", "trials": 2, "space": space}
    document["model"]["depth"] = 4
    (place.folder / "sweep.yaml").write_text(yaml.safe_dump(document))
    # What a process has mapped by then is mostly libraries.
    limit_kb = memory_of_worker(shop) // KB + SPARE_KB
    program = shlex.join([sys.executable, str(ROOT / "sweep.py"), "sweep.yaml", "--json"])
    ended = place.wait(place.start(["-c", LIMITED.format(limit_kb * KB, program)], anew=True))
    assert ended.status == 0, f"ended with {ended.status}: {ended.err[-1500:]}"
    found = read_holdings(place.folder / "mlruns")
    states = {tuple(trial[4].values()): trial[2] for trial in found.trials}
    wanted = {(4,): "COMPLETE", (widths[1],): "FAIL", (6,): "COMPLETE"}
    assert states == wanted, f"{states}: {ended.err[-1500:]}"
    statuses = sorted(run["status"] for run in found.runs)
    assert statuses == ["FAILED", "FINISHED", "FINISHED", "FINISHED"], statuses
    shop.clear(place)
    return Counter({"out of memory": 1})


def memory_of_worker(shop: Workshop) -> int:
    """Address space, in bytes, that a worker of a small search takes."""
    place, most = shop.place(), 0
    process = place.start(COMMANDS["sweep"])
    while not outlived(process, 0.2):
        most = max([most, *map(address_space, descendants(process.pid))])
    return most


def address_space(pid: int) -> int:
    """Bytes that a process has mapped; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


@fault("two-promotions", repeats=4)
def two_promotions(shop: Workshop, rng: random.Random) -> Counter[str]:
    """Two promote the same experiment at once: one opens the test, the other is refused."""
    place = shop.place("run")
    other = replace(place, suffix="-2")
    first = place.start(COMMANDS["promote"])
    time.sleep(rng.uniform(0, 1))
    ended = [other.end(COMMANDS["promote"]), place.wait(first)]
    assert sorted(one.status for one in ended) == [0, 2], [one.err[-500:] for one in ended]
    found = read_holdings(place.folder / "mlruns")
    promotions = [run["status"] for run in found.runs if run["name"].startswith("promotion")]
    assert promotions.count("FINISHED") == 1, promotions
    assert "RUNNING" not in promotions
    assert found.models == shop.undisturbed("promote").holdings.models
    shop.clear(place)
    return Counter({"pairs": 1})
