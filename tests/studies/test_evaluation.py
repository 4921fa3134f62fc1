"""A frozen model on another set of phantoms: scored, on record, and never on its own patients."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.data.labels import target_mask
from seglab.data.names import NameMapping
from seglab.data.open import open_data
from seglab.data.phantom.write import write_phantom
from seglab.data.sources.base import open_source
from seglab.evaluation.scores import from_csv
from seglab.studies.evaluation import Training, evaluate
from seglab.studies.experiment import Plan, train_one
from seglab.studies.resolve import open_model
from seglab.tracking import openings
from seglab.tracking.artifacts import download, read_artifact
from seglab.tracking.store import Store

Build = Callable[..., RunConfig]
pytestmark = pytest.mark.usefixtures("this_store")


@pytest.fixture
def run_id(small_config: Build, store: Store) -> str:
    """A trained run; the store of this file trains it once."""
    return train_one(Plan(small_config(train={"epochs": 2}), "a"), store).run_id


def other_set(folder: Path, seed: int, patients: int = 3, prefix: str = "site") -> Path:
    """NIfTI phantoms named ``<prefix>_001``, …; those of seed 3 are in the training set too."""
    write_phantom(
        folder, patients=patients, size=64, slices=12, seed=seed, layout="nifti", workers=1
    )
    (folder / "name_mapping.csv").unlink()
    old = json.loads((folder / "phantom.json").read_text())["names"]
    for path in sorted(folder.rglob(f"{old}*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.replace(old, f"{prefix}_")))
    return folder


def external(store: Store, run_id: str, root: Path, *leave_out: str) -> dict[str, Any]:
    data = {"source": "brats-nifti", "root": root}
    return evaluate(store, run_id, data, leave_out=leave_out, overrides=["data.workers=1"])


def test_the_model_is_scored_as_it_predicts_and_the_run_holds_it_all(
    store: Store, run_id: str, tmp_path: Path
) -> None:
    root = other_set(tmp_path / "elsewhere", seed=8)
    told = external(store, run_id, root)
    bundle, source = open_model(run_id, lambda: store), open_source("brats-nifti", root)
    expected = []
    for patient in source.patients():
        volume = source.read(patient)
        mask, truth = bundle.segment(volume).mask, target_mask(volume.labels, "whole")
        expected.append(2 * np.sum(mask * truth) / (mask.sum() + truth.sum()))
    assert told["external/dice"] == pytest.approx(np.mean(expected))
    assert told["patients"] == 3
    low, high = told["external/dice_ci"]
    assert low <= told["external/dice"] <= high

    record = store.get_run(told["run_id"])
    assert record.tags["seglab.kind"] == "evaluation"
    assert record.tags["seglab.evaluated_run_id"] == run_id
    assert record.metrics["external/dice"] == pytest.approx(told["external/dice"])
    assert not any(name.startswith("test") for name in record.metrics)
    assert not openings.openings(store)
    files = tmp_path / "files"
    download(store, told["run_id"], files)
    names = {
        score.patient_id for score in from_csv((files / "patients_external.csv").read_bytes(), "")
    }
    assert names == {"site_001", "site_002", "site_003"}
    results = json.loads((files / "external_results.json").read_text())
    assert results["frozen"]["dice"]["value"] == pytest.approx(told["external/dice"])
    assert all(name in (files / "gallery/index.html").read_text() for name in names)
    page = (files / "report/report.html").read_text()
    assert "On brats-nifti:elsewhere, where nothing was tuned: Dice" in page


def test_patients_it_was_trained_on_are_refused_unless_taken_out(
    small_config: Build, store: Store, run_id: str, tmp_path: Path
) -> None:
    own = small_config().data
    with pytest.raises(UserError, match=r"9 of the 9 patients.*the same name"):
        evaluate(store, run_id, {"source": own.source, "root": own.root})
    root = other_set(tmp_path / "copies", seed=3, patients=2)
    other_set(root / "more", seed=8, patients=1, prefix="new")
    same = "site_001 = Phantom_001 (the same volume), site_002 = Phantom_002 (the same volume); "
    with pytest.raises(UserError) as refused:
        external(store, run_id, root)
    assert f"2 of the 3 patients in {root}: {same}--leave-out shared" in str(refused.value)
    found = external(store, run_id, root, "shared")
    scores = json.loads(
        read_artifact(store, store.get_run(found["run_id"]), "external_results.json")
    )
    assert scores["patients"] == found["patients"] == 1
    assert found["left_out"] == {
        "site_001": "Phantom_001 (the same volume)",
        "site_002": "Phantom_002 (the same volume)",
    }
    with pytest.raises(UserError, match="none of the 0 patients left"):
        external(store, run_id, root, "shared", "new_001")


def test_persons_of_the_mapping_are_refused_where_pixels_differ(
    small_config: Build, store: Store, run_id: str, tmp_path: Path
) -> None:
    root = other_set(tmp_path / "mapped", seed=8)
    patient = open_data(small_config()).split.test[0]
    columns = "Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID"
    (root / "name_mapping.csv").write_text(f"{columns}\nHGG,site_002,{patient}\n")
    with pytest.raises(UserError, match=rf"site_002 = {patient} \(name_mapping.csv\); --leave"):
        external(store, run_id, root)


def test_the_mapping_is_read_where_the_volumes_of_the_training_are_not_here(
    small_config: Build, store: Store, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(small_config().data.root, own)
    patient = open_data(small_config()).split.train[0]
    columns = "BraTS_2019_subject_ID,BraTS_2020_subject_ID"
    (own / "name_mapping.csv").write_text(f"{columns}\nsite_002,{patient}\n")
    config = small_config(data={"root": own, "cache": tmp_path / "cache"})
    run_id = train_one(Plan(config, "own"), store).run_id
    for path in own.rglob("*.h5"):
        path.unlink()
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match=rf"site_002 = {patient} \(name_mapping.csv\); --leave"):
        external(store, run_id, other_set(tmp_path / "other", seed=8))


def test_a_table_of_persons_hides_no_person_whom_the_names_tell() -> None:
    mapped = NameMapping({"BraTS20_Training_300": "TCGA-CS-4941"})
    training = Training(["BraTS20_Training_300"], mapped, None, ())
    scan = "TCGA_CS_4941_19960909"
    listed = NameMapping(listed={scan: "TCGA_CS_4941", "new": "n", "old": "p"})
    for names in (NameMapping(), listed):
        (told,) = training.same_person([scan, "new"], names).items()
        assert told[0] == scan
        assert told[1].startswith("BraTS20_Training_300 (")
    ours = Training(["ours"], NameMapping(listed={"ours": "p"}), None, ())
    assert ours.same_person(["old", "new"], listed) == {"old": "ours (data.persons)"}


@pytest.mark.parametrize(
    ("spoil", "leave_out", "told"),
    [
        ("*_seg.nii.gz", (), "site_001 has no segmentation"),
        ("*_flair.nii.gz", (), "no patient in .* has flair"),
        ("nothing", ("site_01",), "unknown patient 'site_01' \\(did you mean 'site_001'\\?\\)"),
    ],
)
def test_a_set_that_cannot_be_scored_is_refused_before_a_run_starts(
    store: Store, run_id: str, tmp_path: Path, spoil: str, leave_out: tuple[str, ...], told: str
) -> None:
    root, before = other_set(tmp_path / "other", seed=8), len(store.find_runs())
    for path in root.rglob(spoil):
        path.unlink()
    with pytest.raises(UserError, match=told):
        external(store, run_id, root, *leave_out)
    assert len(store.find_runs()) == before
