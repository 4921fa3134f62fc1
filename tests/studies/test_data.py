"""What the runs of one command share of the data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.core.study import Study, resolve_study
from seglab.studies import data as shared_data
from seglab.studies.data import SharedData, share_patients
from tests.data.memory import MemorySource, memory_source, memory_volume

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Build = Callable[..., Study]


def test_a_root_is_opened_once_for_each_input(
    phantoms: Path, tmp_path: Path, small_config: Callable[..., RunConfig], capsys: Capture
) -> None:
    shutil.copytree(phantoms, root := tmp_path / "set")
    next(iter(sorted(root.rglob("*_slice_*.h5")))).unlink()
    data = {"root": str(root), "cache": str(tmp_path / "cache")}
    configs = [
        small_config(data={**data, "crop": crop}, loss=loss)
        for crop in ("none", "brain")
        for loss in ("bce", "dice")
    ]
    shared = SharedData()
    opened = [shared.of(config) for config in configs]
    assert opened[0] is opened[1]
    assert opened[2] is opened[3]
    assert opened[0].cache.path != opened[2].cache.path
    assert capsys.readouterr().err.count("lacks 1 files of its set") == 1
    SharedData(warn=False).of(configs[0])
    assert capsys.readouterr().err == ""


ARMS = {
    "flair": {},
    "both": {"data": {"modalities": ["flair", "t1"]}},
    "enhancing": {"data": {"modalities": "t1ce", "target": "enhancing"}},
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: Patch) -> Build:
    """Build a study over patients of whom P2 has no T1, unless all are whole."""

    def build(whole: bool = False, data: Any = None, **keys: Any) -> Study:
        source = memory_source(tmp_path / "data", 5)
        if not whole:
            lacking = {"P002": memory_volume("P002", 1, ("flair", "t1ce", "t2"))}
            source = MemorySource(source.root, {**source.volumes, **lacking})
        monkeypatch.setattr(shared_data, "open_data_source", lambda data: source)
        block = {"source": "brats-h5", "root": "x", **(data or {})}
        return resolve_study({"name": "x", "data": block, **keys})

    return build


def test_arms_share_the_patients_that_have_every_modality(study: Build, capsys: Capture) -> None:
    with pytest.raises(UserError, match=r"P002 \(t1\).*data\.on_bad_file=skip"):
        share_patients(study(arms=ARMS))
    shared = share_patients(study(arms=ARMS, data={"on_bad_file": "skip"}))
    for config in (shared.run, *shared.arms.values()):
        assert config.data.require == ("flair", "t1", "t1ce")
    assert not capsys.readouterr().err, "who is left out is told once, where the data are opened"
    assert share_patients(shared) == shared


def test_where_all_have_all_or_the_user_chose_nothing_changes(study: Build) -> None:
    for given in (
        {"whole": True, "arms": ARMS},
        {"arms": ARMS, "data": {"require": ["t1"]}},
        {"arms": {"a": {}, "b": {"loss": "dice"}}},
    ):
        built = study(**given)
        assert share_patients(built) is built


def test_the_choices_of_a_search_count_as_arms(study: Build) -> None:
    space = {"data.modalities": {"choices": [["flair"], ["flair", "t1"], "t1ce"]}}
    searched = study(search={"space": space}, data={"on_bad_file": "skip"})
    assert searched.search is not None
    choices = searched.search.space["data.modalities"].choices
    assert choices == ["flair", "flair+t1", "t1ce"]
    assert share_patients(searched).run.data.require == ("flair", "t1", "t1ce")


def test_a_modality_that_no_patient_can_have_is_told(study: Build, monkeypatch: Patch) -> None:
    monkeypatch.setattr(MemorySource, "modalities", ("flair", "t1ce"))
    told = r"^memory has no t1 \(it has flair, t1ce\): the arm both asks for it; arms.both=null"
    with pytest.raises(UserError, match=told):
        share_patients(study(arms=ARMS))
