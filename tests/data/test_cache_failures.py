"""Caches under bad files, full disks, kills and several processes at once."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.core.machine import worker_pool
from seglab.data.cache import Cache, CacheSettings
from tests.data.memory import MemorySource, memory_source, prepare

Fill = Callable[..., tuple[Cache, bool]]
SETTINGS = CacheSettings(48, "brain", "zscore", "auto")
BAD = "P003"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path: Path) -> MemorySource:
    return memory_source(tmp_path / "data")


@pytest.fixture
def cached(source: MemorySource, tmp_path: Path) -> Fill:
    """Prepare the source, ``on_bad_file`` and all else by keyword."""
    return partial(prepare, source, SETTINGS, tmp_path / "cache")


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("flair.npy", flip),
        ("labels.npy", flip),
        ("native_labels.npy", lambda path: os.truncate(path, 100)),
        ("slices.npy", Path.unlink),
        ("index.json", lambda path: path.write_text(path.read_text().replace(BAD, "P999"))),
        ("flair.json", lambda path: os.truncate(path, 100)),
    ],
)
def test_a_damaged_file_is_named(cached: Fill, name: str, damage: Callable[[Path], object]) -> None:
    cache, _ = cached()
    damage(cache.path / name)
    with pytest.raises(UserError, match=rf"{name}.*; remove the folder {cache.path}"):
        cached()


@pytest.mark.parametrize("broken", ["flair", "t1ce"])
def test_a_bad_file_fails_by_default_and_leaves_nothing_of_it(
    source: MemorySource, cached: Fill, tmp_path: Path, broken: str
) -> None:
    source.broken.add((BAD, broken))
    with pytest.raises(UserError, match=f"{BAD}-{broken} cannot be read .*on_bad_file=skip"):
        cached(modalities=("flair", "t1ce"))
    assert visible(tmp_path / "cache") == []


def test_a_bad_file_can_be_skipped_and_stays_known(source: MemorySource, cached: Fill) -> None:
    source.broken.add((BAD, "flair"))
    for _ in range(2):
        cache, reused = cached(on_bad_file="skip")
        assert cache.skipped == ((BAD, f"{BAD}-flair cannot be read"),)
        assert (len(cache.patients), cache.slices) == (4, 24)
    assert reused
    with pytest.raises(UserError, match=BAD):
        cached()


def test_who_lacks_a_named_modality_is_hidden(source: MemorySource, cached: Fill) -> None:
    source.broken.add((BAD, "t1ce"))

    def is_used(*modalities: str, require: tuple[str, ...] = ()) -> bool:
        cache, _ = cached(modalities=modalities, require=require, on_bad_file="skip")
        assert BAD in cache.by_id or (cache.row_patient == -1).sum() == 6
        return BAD in cache.by_id

    assert is_used("flair")
    assert not is_used("flair", "t1ce")
    assert not is_used("flair", require=("t1ce",))
    assert is_used("t2")
    assert set(source.reads.values()) == {1}


def test_masks_without_parts_serve_the_whole_only(source: MemorySource, cached: Fill) -> None:
    source.volumes = {
        name: dataclasses.replace(volume, parts_known=name != BAD)
        for name, volume in source.volumes.items()
    }
    assert len(cached()[0].patients) == 5
    for target in ("core", "enhancing"):
        said = f"data.target={target}: the mask marks the whole .*only: {BAD}"
        with pytest.raises(UserError, match=said):
            cached(target=target)
        assert BAD not in cached(target=target, on_bad_file="skip")[0].by_id


def test_a_modality_of_another_grid_is_refused(source: MemorySource, cached: Fill) -> None:
    cached()
    volume = source.volumes[BAD]
    narrow = {"images": volume.images[..., 1:], "labels": volume.labels[..., 1:]}
    source.volumes = {**source.volumes, BAD: dataclasses.replace(volume, **narrow)}
    with pytest.raises(UserError, match=rf"{BAD}: t1 .*\(6, 60, 59\) and \(6, 60, 60\)"):
        cached(modalities=("flair", "t1"))


def test_all_files_bad_is_an_error(source: MemorySource, cached: Fill, tmp_path: Path) -> None:
    source.broken |= {(name, "flair") for name in source.volumes}
    with pytest.raises(UserError, match="no readable patient, the first because P001-flair"):
        cached(on_bad_file="skip")
    assert visible(tmp_path / "cache") == []


def test_a_full_disk_is_told_and_spoils_nothing(cached: Fill, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: write() fails alike."""
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=f"cannot write the cache in {tmp_path / 'cache'}"):
        cached()
    (tmp_path / "cache").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for modalities in (("flair",), ("flair", "t1")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            with pytest.raises(UserError, match="cannot write the cache"):
                cached(modalities=modalities)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(visible(tmp_path / "cache")) == len(modalities) - 1
        cached()


def test_of_several_at_once_one_works(source: MemorySource, cached: Fill) -> None:
    source.patients()  # writes the files
    with ThreadPoolExecutor(4) as pool:
        results = [one.result() for one in [pool.submit(cached) for _ in range(4)]]
    assert sorted(reused for _, reused in results) == [False, True, True, True]
    assert len({cache.data_hash for cache, _ in results}) == 1
    assert set(source.reads.values()) == {1}


KILLED = """
import sys, time
from pathlib import Path
from tests.data.memory import MemorySource, memory_source, prepare
from tests.data.test_cache_failures import SETTINGS

def read(self, *arguments, read=MemorySource.read, **options):
    time.sleep(0.2)
    return read(self, *arguments, **options)

MemorySource.read = read
prepare(memory_source(Path(sys.argv[1])), SETTINGS, Path(sys.argv[2]), modalities=["flair", "t1"])
"""


@pytest.mark.parametrize(
    ("how", "filled"), [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGINT, False)]
)
def test_an_interrupted_prepare_leaves_no_half_cache(
    source: MemorySource, cached: Fill, tmp_path: Path, how: signal.Signals, filled: bool
) -> None:
    root = tmp_path / "cache"
    if filled:
        cached()
    command = [sys.executable, "-c", KILLED, str(source.root), str(root)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(root.glob("*/scratch/*.npz")):
        assert child.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(how)
    child.wait()
    assert bool(list(root.glob("*/scratch"))) == (how == signal.SIGKILL)
    assert not filled or cached()[1]
    cache, reused = cached(modalities=("flair", "t1"))
    assert not reused
    assert visible(root) == [cache.path.name]
    assert not list(root.glob("*/scratch"))
    assert source.reads[BAD, "flair"] == 1


def test_results_come_in_order_and_a_killed_worker_is_told() -> None:
    with worker_pool(2) as pool_map:
        assert list(pool_map(abs, range(-20, 0))) == list(range(20, 0, -1))
    with pytest.raises(UserError, match=r"data\.workers"), worker_pool(2) as pool_map:
        list(pool_map(os._exit, [1, 1]))


ORPHANED = """
import time
from seglab.core.machine import worker_pool

with worker_pool(2) as pool_map:
    print(*pool_map(abs, [1, 2]), flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHANED], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "1 2\n"
    parent.kill()
    parent.communicate(timeout=30)  # until the last worker closes its end of the pipe
