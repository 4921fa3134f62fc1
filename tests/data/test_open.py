"""From a config to a cache and a split: who is used, who belongs together, what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglab.core.config import Data, RunConfig
from seglab.core.errors import UserError
from seglab.core.registry import SOURCES
from seglab.core.study import build_run
from seglab.data import open as opening
from seglab.data.names import NameMapping
from seglab.data.open import PAIRS, SAME_VOLUME, open_data
from seglab.data.sources.base import open_data_source
from seglab.data.sources.brats_h5 import BratsH5
from seglab.data.volume import Volume
from tests.data.memory import MemorySource, memory_source, memory_volume

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
    return lacking(memory_source(tmp_path / "data", 9), ("P002", "P007"), "flair", "t1ce", "t2")


def lacking(source: MemorySource, names: Iterable[str], *modalities: str) -> MemorySource:
    """The source where these patients have these modalities only."""
    fewer = {name: memory_volume(name, 1, modalities) for name in names}
    return MemorySource(source.root, {**source.volumes, **fewer})


def test_a_patient_without_a_named_modality_is_told(source: MemorySource, use: Open) -> None:
    with pytest.raises(UserError, match=r"2 patients lack a modality: P002 \(t1\), P007 \(t1\)"):
        open_data(use(source, modalities=["flair", "t1"]))
    without = lacking(source, source.volumes, "flair", "t2")
    with pytest.raises(UserError, match=r"^no patient in .* has flair, t1$"):
        open_data(use(without, require=["t1"]))


@pytest.mark.parametrize("how", [{"on_bad_file": "skip"}, {"require": ["t1"]}])
def test_who_lacks_it_is_left_out_and_listed_where_that_is_asked_for(
    source: MemorySource, use: Open, how: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["P001", "P003", "P004", "P005", "P006", "P008", "P009"]
    for count in (None, 4):
        data = open_data(use(source, modalities=["flair", "t1"], patients=count, **how))
        assert [patient.patient_id for patient in data.cache.patients] == names[:count]
        assert data.cache.left_out == ("no t1: P002, P007",)
        told = "left out, no t1: P002, P007" in capsys.readouterr().err
        assert told is (count is None), "once a command"


def test_runs_that_require_the_same_share_patients(source: MemorySource, use: Open) -> None:
    one = open_data(use(source, modalities=["flair"], require=["t1"]))
    other = open_data(use(source, modalities=["t2", "t1"], require=["t1", "flair"], target="core"))
    assert one.split == other.split
    assert one.cache.path == other.cache.path


def test_a_modality_that_the_format_does_not_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lgg-tif has no t2; it has t1, flair, t1ce"):
        open_data_source(Data(source="lgg-tif", root=tmp_path, modalities=("t2",)))


@pytest.mark.parametrize("seed", range(3))
def test_persons_and_copies_stay_in_one_part(tmp_path: Path, use: Open, seed: int) -> None:
    source = memory_source(tmp_path / "data", 9)
    copy = dataclasses.replace(source.volumes["P002"], patient_id="P011")
    source = MemorySource(source.root, {**source.volumes, "P011": copy})
    source.names = NameMapping(listed={"P003": "one", "P004": "one"})
    config = use(source, seed=seed)
    data = open_data(config)
    parts = [set(part) for part in (data.split.train, data.split.val, data.split.test)]
    joined = {("P002", "P011"): SAME_VOLUME, ("P003", "P004"): "data.persons"}
    for together in joined:
        assert sorted(len(part.intersection(together)) for part in parts) == [0, 0, 2]
    told = data.split.to_json()["joined"]
    assert {one["patients"]: one["rule"] for one in told} == joined
    path = data.cache.path / PAIRS
    before = path.stat().st_mtime_ns
    assert open_data(config).split == data.split
    assert path.stat().st_mtime_ns == before
    path.write_text("damaged")
    assert open_data(config).split == data.split


def change(images: float = 1, most: int = 3, kept: str = "") -> Callable[[Volume], Volume]:
    """Scale the images and cut the labels of all patients but one."""

    def changed(volume: Volume) -> Volume:
        if volume.patient_id == kept:
            return volume
        labels = np.minimum(volume.labels, most)
        return dataclasses.replace(volume, images=images * volume.images + 7, labels=labels)

    return changed


@pytest.mark.parametrize(
    ("changed", "count", "target", "said"),
    [
        (change(most=0, kept="P0"), 8, "whole", r"none of the \d (training|validation) patients"),
        (change(most=0), 8, "whole", "none of the 8 patients in .* has a pixel of tumour"),
        (change(most=2), 8, "enhancing", r"none of .* has a pixel of data\.target=enhancing"),
        (change(images=0), 8, "whole", "every image of the 8 patients in .* is constant"),
        (change(), 1, "whole", "at least 3 patients; there are 1"),
    ],
)
def test_data_on_which_nothing_can_be_learnt_are_refused(
    tmp_path: Path,
    use: Open,
    changed: Callable[[Volume], Volume],
    count: int,
    target: str,
    said: str,
) -> None:
    volumes = {f"P{i}": changed(memory_volume(f"P{i}", i)) for i in range(count)}
    config = use(MemorySource(tmp_path / "data", volumes), target=target)
    with pytest.raises(UserError, match=said) as told:
        open_data(config)
    assert "\n" not in str(told.value)


def test_volumes_of_one_slice_are_data(tmp_path: Path, use: Open) -> None:
    source = memory_source(tmp_path / "data", 5)
    cut = {
        name: dataclasses.replace(
            whole,
            images=whole.images[:, 3:4],
            labels=whole.labels[3:4],
            slice_indices=whole.slice_indices[3:4],
        )
        for name, whole in source.volumes.items()
    }
    assert open_data(use(MemorySource(source.root, cut))).cache.slices == 5


def test_a_source_of_ones_own_is_one_decorated_class(small_config: Open) -> None:
    @SOURCES.register("slices-of-our-own")
    class Own(BratsH5):
        """Slice files as the scanner of our own hospital writes them."""

        name = "slices-of-our-own"

    own = open_data(small_config(data={"source": Own.name, "workers": 1}))
    assert own.cache.source == Own.name
    assert own.split.train == open_data(small_config()).split.train
