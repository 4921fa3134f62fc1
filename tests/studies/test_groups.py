"""A person under two names never stands on both sides of a split."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from seglab.core.config import RunConfig
from seglab.studies.data import open_data
from seglab.studies.groups import PAIRS


@pytest.fixture
def doubled(phantoms: Path, tmp_path: Path) -> Path:
    """The phantoms, with patient 2 again as patient 11."""
    root = tmp_path / "doubled"
    shutil.copytree(phantoms, root)
    for path in sorted(root.rglob("volume_2_slice_*.h5")):
        shutil.copy(path, path.with_name(path.name.replace("volume_2_", "volume_11_")))
    return root


@pytest.mark.parametrize("seed", range(6))
def test_a_copied_volume_stays_with_its_original(
    doubled: Path, small_config: Callable[..., RunConfig], seed: int
) -> None:
    data = open_data(small_config(data={"root": str(doubled)}, split={"seed": seed}))
    twins = {"BraTS20_Training_002", "BraTS20_Training_011"}
    parts = [twins & set(part) for part in (data.split.train, data.split.val, data.split.test)]
    assert sorted(map(len, parts)) == [0, 0, 2]


@pytest.mark.parametrize("seed", range(6))
def test_a_person_with_two_names_stays_on_one_side(
    phantoms: Path, tmp_path: Path, small_config: Callable[..., RunConfig], seed: int
) -> None:
    root = tmp_path / "mapped"
    shutil.copytree(phantoms, root)
    rows = [f"HGG,TCGA-CS-4941,BraTS20_Training_00{number}" for number in (1, 4)]
    header = "Grade,TCGA_TCIA_subject_ID,BraTS_2020_subject_ID"
    (root / "name_mapping.csv").write_text("\n".join([header, *rows]))
    data = open_data(small_config(data={"root": str(root)}, split={"seed": seed}))
    names = {"BraTS20_Training_001", "BraTS20_Training_004"}
    parts = [names & set(part) for part in (data.split.train, data.split.val, data.split.test)]
    assert sorted(map(len, parts)) == [0, 0, 2]


def test_the_search_is_done_once(doubled: Path, small_config: Callable[..., RunConfig]) -> None:
    config = small_config(data={"root": str(doubled)})
    first = open_data(config)
    path = first.cache.path / PAIRS
    before = path.stat().st_mtime_ns
    assert open_data(config).split == first.split
    assert path.stat().st_mtime_ns == before
    path.write_text("damaged")
    assert open_data(config).split == first.split
