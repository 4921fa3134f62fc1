"""What is said, and what goes on, where the disk of a store takes nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.tracking.connect import open_store
from seglab.tracking.run import resume_run, start_run
from tests.faults.tmpfs import KB, enlarge, fill_up


@pytest.fixture
def small_disk(tmp_path: Path, mount: Callable[[Path, int], Path]) -> Path:
    return mount(tmp_path / "disk", 400 * KB)


def test_a_full_disk_is_said_and_nothing_is_left(small_disk: Path) -> None:
    with pytest.raises(UserError, match=r"No space left|disk is full"):
        open_store(small_disk / "mlruns")
    assert not [path for path in small_disk.rglob("*.db*") if path.is_file()]


def test_a_run_whose_end_found_no_space_goes_on_once_there_is_some(
    small_disk: Path, fresh_folder: Path
) -> None:
    enlarge(small_disk, 4096 * KB)
    shutil.copytree(fresh_folder, small_disk / "mlruns")
    store = open_store(small_disk / "mlruns")
    run = start_run(store, "full", "unet · seed 0")
    filler = small_disk / "filler"
    fill_up(filler)
    with pytest.raises(UserError, match=r"No space left|disk is full"):
        run.fail("the disk is full")
    filler.unlink()
    found = store.get_run(run.run_id)
    assert (found.status, store.in_use(run.run_id)) == ("RUNNING", False)
    assert store.may_continue(found)
    resume_run(store, run.run_id).finish()
    assert store.get_run(run.run_id).status == "FINISHED"
    assert not store.state(run.run_id).exists()


def test_a_read_only_disk_is_said(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"Read-only|readonly"):
        open_store(small_disk / "mlruns")
