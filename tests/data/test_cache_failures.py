from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.cache import CacheSettings, prepare
from seglab.data.cache.lock import held, remove_abandoned
from seglab.data.sources import Source, open_source
from seglab.data.workers import Workers

Volumes = dict[str, tuple[np.ndarray, np.ndarray]]
SETTINGS = CacheSettings(48, "brain", "zscore", "volume", 0)
BAD = "BraTS20_Training_003"


@pytest.fixture
def source(
    tmp_path: Path, write_nifti: Callable[[Path, Volumes], Path], volumes: Volumes
) -> Source:
    return open_source("brats-nifti", write_nifti(tmp_path / "data", volumes))


def truncate(source: Source) -> Path:
    file = next(p for p in source.patients() if p.patient_id == BAD).files[0]
    os.truncate(file, file.stat().st_size // 2)
    return file


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("name", ["images.bin", "masks.bin", "native_masks.bin", "slices.bin"])
def test_a_changed_byte_is_refused_and_named(source: Source, tmp_path: Path, name: str) -> None:
    cache, _ = prepare(source, SETTINGS, tmp_path / "cache", workers=1)
    file = cache.path / name
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(UserError, match=rf"{name} has changed .*remove the folder {cache.path}"):
        prepare(source, SETTINGS, tmp_path / "cache", workers=1)


@pytest.mark.parametrize("name", ["images.bin", "index.json"])
def test_a_truncated_or_absent_file_is_refused_and_named(
    source: Source, tmp_path: Path, name: str
) -> None:
    cache, _ = prepare(source, SETTINGS, tmp_path / "cache", workers=1)
    os.truncate(cache.path / name, 100)
    with pytest.raises(UserError, match=name):
        prepare(source, SETTINGS, tmp_path / "cache", workers=1)


def test_an_edited_index_is_refused(source: Source, tmp_path: Path) -> None:
    cache, _ = prepare(source, SETTINGS, tmp_path / "cache", workers=1)
    index = cache.path / "index.json"
    index.write_text(index.read_text().replace(BAD, "BraTS20_Training_999"))
    with pytest.raises(UserError, match=r"index\.json has changed"):
        prepare(source, SETTINGS, tmp_path / "cache", workers=1)


def test_a_bad_file_fails_by_default_and_leaves_nothing(source: Source, tmp_path: Path) -> None:
    file = truncate(source)
    with pytest.raises(UserError, match=file.name):
        prepare(source, SETTINGS, tmp_path / "cache", workers=1)
    assert list((tmp_path / "cache").iterdir()) == [], "not even a lock"


def test_a_bad_file_can_be_skipped_by_name_and_is_not_forgotten(
    source: Source, tmp_path: Path
) -> None:
    truncate(source)
    for _ in range(2):
        cache, prepared = prepare(
            source, SETTINGS, tmp_path / "cache", workers=1, on_bad_file="skip"
        )
        assert [name for name, _ in prepared.skipped] == [BAD]
        assert len(cache.patients) == 4
    assert prepared.reused
    with pytest.raises(UserError, match=BAD):
        prepare(source, SETTINGS, tmp_path / "cache", workers=1)


def test_all_files_bad_is_an_error_even_when_skipping(source: Source, tmp_path: Path) -> None:
    for patient in source.patients():
        os.truncate(patient.files[0], 100)
    with pytest.raises(UserError, match="no readable patient"):
        prepare(source, SETTINGS, tmp_path / "cache", workers=1, on_bad_file="skip")
    assert visible(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_made_is_named(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot write the cache in {tmp_path / 'file'}"):
        prepare(source, SETTINGS, tmp_path / "file", workers=1)


def test_a_full_disk_is_told_and_leaves_nothing(source: Source, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: write() fails alike."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match="cannot write the cache"):
            prepare(source, SETTINGS, tmp_path / "cache", workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert visible(tmp_path / "cache") == []


def test_of_several_at_once_one_works_and_the_others_wait(source: Source, tmp_path: Path) -> None:
    def run(_: int) -> tuple[bool, str]:
        cache, prepared = prepare(source, SETTINGS, tmp_path / "cache", workers=1)
        return prepared.reused, cache.data_hash

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert sorted(reused for reused, _ in results) == [False, True, True, True]
    assert len({data_hash for _, data_hash in results}) == 1


KILLED = """
import sys, time
from pathlib import Path
from seglab.data.cache import CacheSettings, prepare
from seglab.data.sources import brats_nifti, open_source

def read(self, patient, modalities, read=brats_nifti.BratsNifti.read):
    time.sleep(0.5)
    return read(self, patient, modalities)

brats_nifti.BratsNifti.read = read
source = open_source("brats-nifti", Path(sys.argv[1]))
settings = CacheSettings(48, "brain", "zscore", "volume", 0)
prepare(source, settings, Path(sys.argv[2]), workers=1)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_prepare_leaves_no_half_cache(
    source: Source, tmp_path: Path, how: signal.Signals
) -> None:
    root = tmp_path / "cache"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(source.root), str(root)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(root.glob("*.tmp-*/*.part")):
        assert child.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(how)
    child.wait()
    left = visible(root)
    assert all(".tmp-" in name for name in left)
    assert bool(left) == (how == signal.SIGKILL)
    other = CacheSettings(32, "brain", "zscore", "volume", 0)
    cache, prepared = prepare(source, other, root, workers=1)
    assert not prepared.reused
    assert visible(root) == [cache.path.name]


def test_the_scratch_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "living.tmp-1").mkdir()
    (tmp_path / "dead.tmp-2").mkdir()
    with held(tmp_path, "living"), held(tmp_path, "mine"):
        remove_abandoned(tmp_path, "mine")
    assert visible(tmp_path) == ["living.tmp-1"]


def test_a_killed_worker_is_told() -> None:
    with Workers(2) as pool, pytest.raises(UserError, match=r"data\.workers"):
        list(pool.map(os._exit, [1, 1]))


def test_processes_return_results_in_order() -> None:
    with Workers(2) as pool:
        assert list(pool.map(abs, range(-20, 0))) == list(range(20, 0, -1))


ORPHANED = """
import time
from seglab.data.workers import Workers

with Workers(2) as pool:
    list(pool.map(abs, [1, 2]))
    print(*pool._pool._processes, flush=True)
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
