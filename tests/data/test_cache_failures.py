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
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.core.machine import worker_pool
from seglab.data.cache import CacheSettings
from tests.data.memory import MemorySource, memory_source, prepare

SETTINGS = CacheSettings(48, "brain", "zscore", "auto")
BAD = "P003"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path: Path) -> MemorySource:
    return memory_source(tmp_path / "data")


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
def test_a_damaged_file_is_refused_and_named(
    source: MemorySource, tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    cache, _ = prepare(source, SETTINGS, tmp_path / "cache")
    damage(cache.path / name)
    with pytest.raises(UserError, match=rf"{name}.*; remove the folder {cache.path}"):
        prepare(source, SETTINGS, tmp_path / "cache")


@pytest.mark.parametrize("broken", ["flair", "t1ce"])
def test_a_bad_file_fails_by_default_and_leaves_nothing_of_it(
    source: MemorySource, tmp_path: Path, broken: str
) -> None:
    source.broken.add((BAD, broken))
    with pytest.raises(UserError, match=f"{BAD}-{broken} cannot be read .*on_bad_file=skip"):
        prepare(source, SETTINGS, tmp_path / "cache", modalities=("flair", "t1ce"))
    assert visible(tmp_path / "cache") == []


def test_a_bad_file_can_be_skipped_by_name_and_is_not_forgotten(
    source: MemorySource, tmp_path: Path
) -> None:
    source.broken.add((BAD, "flair"))
    for _ in range(2):
        cache, reused = prepare(source, SETTINGS, tmp_path / "cache", on_bad_file="skip")
        assert cache.skipped == ((BAD, f"{BAD}-flair cannot be read"),)
        assert len(cache.patients) == 4
        assert cache.slices == 24
    assert reused
    with pytest.raises(UserError, match=BAD):
        prepare(source, SETTINGS, tmp_path / "cache")


def test_who_lacks_a_modality_is_hidden_where_it_is_named_or_required(
    source: MemorySource, tmp_path: Path
) -> None:
    source.broken.add((BAD, "t1ce"))

    def names(*modalities: str, require: tuple[str, ...] = ()) -> list[str]:
        cache, _ = prepare(
            source,
            SETTINGS,
            tmp_path / "cache",
            modalities=modalities,
            require=require,
            on_bad_file="skip",
        )
        assert BAD in cache.by_id or (cache.row_patient == -1).sum() == 6
        return [patient.patient_id for patient in cache.patients]

    assert BAD in names("flair")
    assert BAD not in names("flair", "t1ce")
    assert BAD not in names("flair", require=("t1ce",))
    assert BAD in names("t2")
    assert set(source.reads.values()) == {1}


def test_masks_without_parts_serve_the_whole_tumour_only(
    source: MemorySource, tmp_path: Path
) -> None:
    merged = dataclasses.replace(source.volumes[BAD], parts_known=False)
    source = MemorySource(source.root, {**source.volumes, BAD: merged})
    assert len(prepare(source, SETTINGS, tmp_path / "cache")[0].patients) == 5
    for target in ("core", "enhancing"):
        with pytest.raises(
            UserError, match=f"data.target={target}: the mask marks the whole .*only: {BAD}"
        ):
            prepare(source, SETTINGS, tmp_path / "cache", target=target)
        cache, _ = prepare(source, SETTINGS, tmp_path / "cache", target=target, on_bad_file="skip")
        assert BAD not in cache.by_id


def test_modalities_of_another_grid_are_refused(source: MemorySource, tmp_path: Path) -> None:
    source.other_grid.add((BAD, "t1"))
    with pytest.raises(UserError, match=f"{BAD}-t1 has another shape"):
        prepare(source, SETTINGS, tmp_path / "a", modalities=("flair", "t1"))
    prepare(source, SETTINGS, tmp_path / "b")
    with pytest.raises(UserError, match=rf"{BAD}: t1 .*\(6, 60, 59\) and \(6, 60, 60\)"):
        prepare(source, SETTINGS, tmp_path / "b", modalities=("flair", "t1"))


def test_all_files_bad_is_an_error_even_when_skipping(source: MemorySource, tmp_path: Path) -> None:
    source.broken |= {(name, "flair") for name in source.volumes}
    with pytest.raises(UserError, match="no readable patient, the first because P001-flair"):
        prepare(source, SETTINGS, tmp_path / "cache", on_bad_file="skip")
    assert visible(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_made_is_named(source: MemorySource, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot write the cache in {tmp_path / 'file'}"):
        prepare(source, SETTINGS, tmp_path / "file")


def test_a_full_disk_is_told_and_spoils_nothing(source: MemorySource, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: write() fails alike."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for modalities in (("flair",), ("flair", "t1")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            with pytest.raises(UserError, match="cannot write the cache"):
                prepare(source, SETTINGS, tmp_path / "cache", modalities=modalities)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(visible(tmp_path / "cache")) == len(modalities) - 1
        prepare(source, SETTINGS, tmp_path / "cache")


def test_of_several_at_once_one_works_and_the_others_wait(
    source: MemorySource, tmp_path: Path
) -> None:
    patients = source.patients()

    def run(number: int) -> tuple[bool, str]:
        cache, reused = prepare(source, SETTINGS, tmp_path / "cache", patients=patients)
        return reused, cache.data_hash

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert sorted(reused for reused, _ in results) == [False, True, True, True]
    assert len({data_hash for _, data_hash in results}) == 1
    assert set(source.reads.values()) == {1}


KILLED = """
import sys, time
from pathlib import Path
from tests.data.memory import MemorySource, memory_source, prepare
from tests.data.test_cache_failures import SETTINGS

def read(self, *arguments, read=MemorySource.read, **options):
    time.sleep(0.5)
    return read(self, *arguments, **options)

MemorySource.read = read
prepare(
    memory_source(Path(sys.argv[1])), SETTINGS, Path(sys.argv[2]), modalities=sys.argv[3:]
)
"""


@pytest.mark.parametrize(
    ("how", "filled"), [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGINT, False)]
)
def test_an_interrupted_prepare_leaves_no_half_cache(
    source: MemorySource, tmp_path: Path, how: signal.Signals, filled: bool
) -> None:
    root = tmp_path / "cache"
    if filled:
        prepare(source, SETTINGS, root)
    command = [sys.executable, "-c", KILLED, str(source.root), str(root), "flair", "t1"]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(root.glob("*/scratch/*.npz")):
        assert child.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(how)
    child.wait()
    assert bool(list(root.glob("*/scratch"))) == (how == signal.SIGKILL)
    if filled:
        assert prepare(source, SETTINGS, root)[1]
    cache, reused = prepare(source, SETTINGS, root, modalities=("flair", "t1"))
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
import multiprocessing, time
from seglab.core.machine import worker_pool

with worker_pool(2) as pool_map:
    list(pool_map(abs, [1, 2]))
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHANED], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert workers
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether the process lives; one that ended may wait for its end to be noted."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
