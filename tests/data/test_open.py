"""From a config to a cache and a split: who is used, who belongs together, what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglab.core.config import Data, RunConfig
from seglab.core.errors import UserError
from seglab.core.study import build_run
from seglab.data import open as opening
from seglab.data.open import PAIRS, SAME_VOLUME, open_data
from seglab.data.sources.base import open_data_source
from seglab.data.volume import Volume
from tests.data.memory import MemorySource, Names, memory_source, memory_volume

Open = Callable[..., RunConfig]


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """Build a config whose data are those of a source in memory."""

    def build(source: MemorySource, seed: int = 0, **data: Any) -> RunConfig:
        monkeypatch.setattr(opening, "open_data_source", lambda data: source)
        block = {"source": "brats-h5", "root": str(source.root), "cache": str(tmp_path / "cache")}
        block |= {"image_size": 48} | data
        return build_run({"name": "x", "data": block, "split": {"seed": seed}})

    return build


@pytest.fixture
def source(tmp_path: Path) -> MemorySource:
    """Nine patients; P002 and P007 have no T1."""
    full = memory_source(tmp_path / "data", 9)
    lacking = {name: memory_volume(name, 1, ("flair", "t1ce", "t2")) for name in ("P002", "P007")}
    return MemorySource(full.root, {**full.volumes, **lacking})


def patients(config: RunConfig) -> list[str]:
    return [patient.patient_id for patient in open_data(config).cache.patients]


def test_a_patient_without_a_named_modality_is_told(source: MemorySource, use: Open) -> None:
    with pytest.raises(UserError, match=r"2 patients lack a modality: P002 \(t1\), P007 \(t1\)"):
        open_data(use(source, modalities=["flair", "t1"]))


def test_no_patient_with_every_modality_is_told(source: MemorySource, use: Open) -> None:
    lacking = {name: memory_volume(name, 1, ("flair", "t2")) for name in source.volumes}
    none = MemorySource(source.root, lacking)
    with pytest.raises(UserError, match=r"^no patient in .* has flair, t1$"):
        open_data(use(none, require=["t1"]))


@pytest.mark.parametrize("how", [{"on_bad_file": "skip"}, {"require": ["t1"]}])
def test_who_lacks_it_is_left_out_and_listed_where_that_is_asked_for(
    source: MemorySource, use: Open, how: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = patients(use(source, modalities=["flair", "t1"], **how))
    assert len(found) == 7
    assert not {"P002", "P007"} & set(found)
    assert "left out, no t1: P002, P007" in capsys.readouterr().err
    fewer = patients(use(source, modalities=["flair", "t1"], patients=4, **how))
    assert fewer == ["P001", "P003", "P004", "P005"]


def test_runs_that_require_the_same_share_patients_and_split(
    source: MemorySource, use: Open
) -> None:
    one = open_data(use(source, modalities=["flair"], require=["t1"]))
    other = open_data(use(source, modalities=["t2", "t1"], require=["t1", "flair"], target="core"))
    assert one.split == other.split
    assert one.cache.path == other.cache.path


def test_a_modality_that_the_format_does_not_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lgg-tif has no t2; it has t1, flair, t1ce"):
        open_data_source(Data(source="lgg-tif", root=tmp_path, modalities=("t2",)))


@pytest.mark.parametrize("seed", range(3))
def test_persons_and_copies_stay_in_one_part_and_the_split_says_why(
    tmp_path: Path, use: Open, seed: int
) -> None:
    source = memory_source(tmp_path / "data", 9)
    copy = dataclasses.replace(source.volumes["P002"], patient_id="P011")
    source = MemorySource(source.root, {**source.volumes, "P011": copy})
    source.names = Visits()  # type: ignore[misc]
    config = use(source, seed=seed)
    data = open_data(config)
    parts = [set(part) for part in (data.split.train, data.split.val, data.split.test)]
    for together in ({"P002", "P011"}, {"P003", "P004"}):
        assert sorted(len(together & part) for part in parts) == [0, 0, 2]
    assert data.split.to_json()["joined"] == [
        {"patients": ("P002", "P011"), "rule": SAME_VOLUME},
        {"patients": ("P003", "P004"), "rule": "visits"},
    ]
    path = data.cache.path / PAIRS
    before = path.stat().st_mtime_ns
    assert open_data(config).split == data.split
    assert path.stat().st_mtime_ns == before
    path.write_text("damaged")
    assert open_data(config).split == data.split


class Visits(Names):
    """P003 and P004 are one person."""

    def people(self, names: Any) -> dict[str, Any]:
        found = super().people(names)
        one = type(found["P003"])("P003", "visits")
        return {**found, "P003": one, "P004": one}


def without_tumour(volume: Volume) -> Volume:
    return dataclasses.replace(volume, labels=np.zeros_like(volume.labels))


def constant(volume: Volume) -> Volume:
    return dataclasses.replace(volume, images=np.full_like(volume.images, 7))


def not_enhancing(volume: Volume) -> Volume:
    return dataclasses.replace(volume, labels=np.minimum(volume.labels, 2))


def one_with_tumour(volume: Volume) -> Volume:
    return volume if volume.patient_id == "P0" else without_tumour(volume)


@pytest.mark.parametrize(
    ("change", "count", "target", "said"),
    [
        (one_with_tumour, 8, "whole", r"none of the \d (training|validation) patients"),
        (without_tumour, 8, "whole", "none of the 8 patients in .* has a pixel of tumour"),
        (not_enhancing, 8, "enhancing", r"none of .* has a pixel of data\.target=enhancing"),
        (constant, 8, "whole", "every image of the 8 patients in .* is constant"),
        (lambda volume: volume, 1, "whole", "at least 3 patients; there are 1"),
    ],
)
def test_data_on_which_nothing_can_be_learnt_are_refused(
    tmp_path: Path,
    use: Open,
    change: Callable[[Volume], Volume],
    count: int,
    target: str,
    said: str,
) -> None:
    shape = (24, 72, 72)
    volumes = {f"P{i}": change(memory_volume(f"P{i}", i, shape=shape)) for i in range(count)}
    config = use(MemorySource(tmp_path / "data", volumes), image_size=64, target=target)
    with pytest.raises(UserError, match=said) as told:
        open_data(config)
    assert "\n" not in str(told.value)


def test_volumes_of_one_slice_are_data(tmp_path: Path, use: Open) -> None:
    volumes = {}
    for number in range(5):
        whole = memory_volume(f"P{number}", number)
        volumes[f"P{number}"] = dataclasses.replace(
            whole,
            images=whole.images[:, 3:4],
            labels=whole.labels[3:4],
            slice_indices=whole.slice_indices[3:4],
        )
    assert open_data(use(MemorySource(tmp_path / "data", volumes))).cache.slices == 5
