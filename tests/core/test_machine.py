"""How many cores a process is told it has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seglab.core.machine import available_cores

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")


@pytest.mark.parametrize(
    ("said", "share"),
    [("max 100000", None), ("100000 100000", 1), ("150000 100000", 2), ("1000 100000", 1)],
)
def test_a_container_has_as_many_cores_as_its_share(
    tmp_path: Path, said: str, share: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(f"{said}\n")
    all_cores = len(os.sched_getaffinity(0))
    assert available_cores(tmp_path) == min(all_cores, share or all_cores)


@pytest.mark.parametrize(("quota", "share"), [("-1", None), ("50000", 1), ("200000", 2)])
def test_the_older_files_of_the_kernel_are_read_too(
    tmp_path: Path, quota: str, share: int | None
) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    all_cores = len(os.sched_getaffinity(0))
    assert available_cores(tmp_path) == min(all_cores, share or all_cores)


@pytest.mark.parametrize("said", ["", "nonsense", "1 0", "a b"])
def test_without_a_readable_share_the_affinity_counts(tmp_path: Path, said: str) -> None:
    (tmp_path / "cpu.max").write_text(said)
    assert available_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_a_process_confined_to_a_core_has_one(tmp_path: Path) -> None:
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cores)})
    try:
        assert available_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, all_cores)
