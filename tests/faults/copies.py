"""What is made of files: a cache filled, a data set downloaded; killed, and two at once."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from tests.data.kaggle_stand import Stand, serve
from tests.faults.kills import kill_until_done
from tests.faults.registry import fault
from tests.faults.workshop import Place, Workshop

MEMBERS = 40
DOWNLOAD = f"""
import os
import sys
from kagglesdk import kaggle_env
kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = os.environ["STAND"]
from seglab.data import download
download.SLICE_FILES = {MEMBERS}
from seglab.cli.main import main
sys.exit(main(["data", "download", "--out", "set"]))
"""
"""The real command, for a smaller set."""


def prepare(shop: Workshop, cache: str) -> list[str]:
    """Arguments of a command that fills a cache with two processes."""
    options = ["--size", "48", "--cache", cache, "--workers", "2"]
    return ["-m", "seglab", "data", "prepare", "--source", "brats-h5", "--root", str(large(shop)),
            *options]  # fmt: skip


def large(shop: Workshop) -> Path:
    """Phantoms of so many bytes that processes are started to read them."""
    folder = shop.folder / "large"
    if not folder.exists():
        from seglab.data.phantom import write_phantom

        write_phantom(folder, patients=4, size=160, slices=110, seed=1, workers=1)
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below ``folder`` that is no lock; a cache's JSON holds its own."""
    return {
        path.relative_to(folder).as_posix(): json.loads(path.read_text())["digest"]
        if path.suffix == ".json"
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def filled(shop: Workshop) -> tuple[dict[str, str], float]:
    """What an undisturbed prepare leaves, and how long it takes."""
    folder = shop.folder / "filled"
    started = time.monotonic()
    if not folder.exists():
        shop.place().finish(prepare(shop, str(folder)))
        (shop.folder / "filled-seconds").write_text(str(time.monotonic() - started))
    return contents(folder), float((shop.folder / "filled-seconds").read_text())


def same(found: dict[str, str], expected: dict[str, str]) -> None:
    """Compare two folders; raises AssertionError with the names of what differs."""
    odd = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
    assert not odd, f"{len(odd)} files differ or should not be there: {odd[:5]}"


@fault("kill-prepare", repeats=10)
def kill_prepare(shop: Workshop, rng: random.Random) -> Counter[str]:
    """A prepare's processes are killed up to four times."""
    expected, seconds = filled(shop)
    place, counts = kill_until_done(shop.place, prepare(shop, "cache"), seconds, rng)
    same(contents(place.folder / "cache"), expected)
    shop.clear(place)
    return counts


@fault("two-prepares", repeats=3)
def two_prepares(shop: Workshop, rng: random.Random) -> Counter[str]:
    """Two fill one cache at once: one works, the other takes what it made."""
    expected, seconds = filled(shop)
    place, other = shop.place(), shop.place()
    command = [*prepare(shop, str(place.folder / "cache")), "--json"]
    first = place.start(command)
    time.sleep(rng.uniform(0, seconds))
    ended = [other.finish(command), place.wait(first)]
    assert ended[1].status == 0, ended[1].err[-800:]
    reused = sorted('"reused": true' in one.out for one in ended)
    assert reused == [False, True], f"reused: {reused}"
    same(contents(place.folder / "cache"), expected)
    return Counter({"pairs": 1})


@cache
def archive() -> bytes:
    """A zip as Kaggle sends it: forty slices of random bytes."""
    rng, buffer = random.Random(0), BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as packed:
        for number in range(MEMBERS):
            packed.writestr(f"content/data/volume_1_slice_{number}.h5", rng.randbytes(100_000))
        packed.writestr("meta_data.csv", "slice_path,target\n" * 50)
    return buffer.getvalue()


@fault("kill-download", repeats=10)
def kill_download(shop: Workshop, rng: random.Random) -> Counter[str]:
    """A download is killed up to four times, while it transfers and while it unpacks."""
    with serve(Stand(archive(), pause_s=0.05)) as address:

        def at_server() -> Place:
            return replace(shop.place(), environment={"STAND": address})

        place, counts = kill_until_done(at_server, ["-c", DOWNLOAD], 4.0, rng)
    with ZipFile(BytesIO(archive())) as packed:
        expected = {n: hashlib.sha256(packed.read(n)).hexdigest() for n in packed.namelist()}
    same(contents(place.folder / "set"), expected)
    shop.clear(place)
    return counts
