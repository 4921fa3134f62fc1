"""What several runs of one command share of the data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from seglab.core.config import RunConfig
from seglab.studies.data import SharedData


def test_a_root_is_warned_of_once_and_opened_once_for_each_input(
    phantoms: Path,
    tmp_path: Path,
    small_config: Callable[..., RunConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(phantoms, root := tmp_path / "set")
    next(iter(sorted(root.rglob("*_slice_*.h5")))).unlink()
    configs = [
        small_config(
            data={"root": str(root), "cache": str(tmp_path / "cache"), "crop": crop}, **arm
        )
        for crop in ("none", "brain")
        for arm in ({}, {"loss": "dice"})
    ]
    shared = SharedData()
    opened = [shared.of(config) for config in configs]
    assert opened[0] is opened[1]
    assert opened[2] is opened[3]
    assert opened[0].cache.path != opened[2].cache.path
    assert capsys.readouterr().err.count("lacks 1 files of its set") == 1
    SharedData(warn=False).of(configs[0])
    assert capsys.readouterr().err == ""
