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
from seglab.studies.report.outcomes import external_warnings
from seglab.studies.resolve import open_model
from seglab.tracking import openings
from seglab.tracking.artifacts import download
from seglab.tracking.store import Store

Train = Callable[..., str]
Build = Callable[..., RunConfig]
pytestmark = pytest.mark.usefixtures("this_store")


@pytest.fixture(scope="module")
def run_id(small_config: Build, train: Train) -> str:
    return train(small_config(train={"epochs": 2}))


def other_set(folder: Path, seed: int, patients: int = 3, prefix: str = "site") -> Path:
    """NIfTI phantoms named ``<prefix>_001``, …; those of seed 3 are in the training set too."""
    write_phantom(
        folder, patients=patients, size=64, slices=12, seed=seed, layout="nifti", workers=1
    )
    (folder / "name_mapping.csv").unlink()
    old = json.loads((folder / "phantom.json").read_text())["names"]
    for path in sorted(folder.rglob(f"{old}*"), reverse=True):
        path.rename(path.with_name(path.name.replace(old, f"{prefix}_")))
    return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_set(tmp_path_factory.mktemp("sets") / "elsewhere", seed=8)


def external(store: Store, run_id: str, root: Path, *leave_out: str) -> dict[str, Any]:
    data = {"source": "brats-nifti", "root": root}
    return evaluate(store, run_id, data, leave_out=leave_out, overrides=["data.workers=1"])


def test_a_warning_of_many_patients_is_one_line() -> None:
    skull = "the skull is on: by {} of the brain's"
    warnings = [f"p_{n}: {skull.format(n / 10)}" for n in (1, 2, 3)]
    warnings += ["p_1: the brightness of t1 is 2.8", "p_2: the brightness of t2 is 2.8"]
    assert external_warnings(["only names are compared: no data", *warnings], 3) == [
        "warning: only names are compared: no data",
        f"all 3 patients: warning: {skull.format(0.1)} (this is p_1; the others: "
        "external_results.json)",
        "p_1: warning: the brightness of t1 is 2.8",
        "p_2: warning: the brightness of t2 is 2.8",
    ]


def test_a_model_is_scored_as_it_predicts(
    store: Store, run_id: str, elsewhere: Path, tmp_path: Path
) -> None:
    told = external(store, run_id, elsewhere)
    bundle, source = open_model(run_id, lambda: store), open_source("brats-nifti", elsewhere)
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
    download(store, told["run_id"], tmp_path)
    scores = from_csv((tmp_path / "patients_external.csv").read_bytes(), "")
    names = {score.patient_id for score in scores}
    assert names == {"site_001", "site_002", "site_003"}
    results = json.loads((tmp_path / "external_results.json").read_text())
    assert results["frozen"]["dice"]["value"] == pytest.approx(told["external/dice"])
    assert all(name in (tmp_path / "gallery/index.html").read_text() for name in names)
    page = (tmp_path / "report/report.html").read_text()
    assert "On brats-nifti:elsewhere, where nothing was tuned: Dice" in page


def test_training_patients_are_refused(
    small_config: Build, store: Store, run_id: str, tmp_path: Path
) -> None:
    own = small_config().data
    with pytest.raises(
        UserError, match=r"9 of the 9 patients with flair in .*: Phantom_001 \(the same name\)"
    ):
        evaluate(store, run_id, {"source": own.source, "root": own.root})
    root = other_set(tmp_path / "copies", seed=3, patients=2)
    other_set(root / "more", seed=8, patients=1, prefix="new")
    same = "site_001 = Phantom_001 (the same volume), site_002 = Phantom_002 (the same volume); "
    with pytest.raises(UserError) as refused:
        external(store, run_id, root)
    told = f"2 of the 3 patients with flair in {root}: {same}--leave-out shared"
    assert told in str(refused.value)
    found = external(store, run_id, root, "shared")
    assert found["patients"] == 1
    left_out = {f"site_00{n}": f"Phantom_00{n} (the same volume)" for n in (1, 2)}
    assert found["left_out"] == left_out
    with pytest.raises(UserError, match="--leave-out leaves no patient of"):
        external(store, run_id, root, "shared", "new_001")


def map_names(root: Path, patient: str) -> None:
    """Write a table that says that site_002 is a patient of the training set."""
    columns = "BraTS_2019_subject_ID,BraTS_2020_subject_ID"
    (root / "name_mapping.csv").write_text(f"{columns}\nsite_002,{patient}\n")


def test_persons_of_the_mapping_are_refused(
    small_config: Build, store: Store, run_id: str, elsewhere: Path, tmp_path: Path
) -> None:
    shutil.copytree(elsewhere, root := tmp_path / "mapped")
    patient = open_data(small_config()).split.test[0]
    map_names(root, patient)
    with pytest.raises(UserError, match=rf"site_002 = {patient} \(name_mapping.csv\); --leave"):
        external(store, run_id, root)


def test_the_mapping_is_read_where_volumes_are_gone(
    small_config: Build, store: Store, train: Train, elsewhere: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_config().data.root, own := tmp_path / "own")
    patient = open_data(small_config()).split.train[0]
    map_names(own, patient)
    data = {"root": own, "cache": tmp_path / "cache"}
    run_id = train(small_config(data=data, train={"epochs": 1}), "own")
    for path in own.rglob("*.h5"):
        path.unlink()
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match=rf"site_002 = {patient} \(name_mapping.csv\); --leave"):
        external(store, run_id, elsewhere)


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
    ("spoil", "left", "told"),
    [
        ("*_seg.nii.gz", [], "site_001 has no segmentation"),
        ("*_flair.nii.gz", [], "no patient in .* has flair"),
        ("nothing", ["site_01"], r"unknown patient 'site_01' \(did you mean 'site_001'\?\)"),
    ],
)
def test_a_set_that_cannot_be_scored_is_refused(
    store: Store, run_id: str, elsewhere: Path, tmp_path: Path, spoil: str, left: Any, told: str
) -> None:
    before, unread = len(store.find_runs()), shutil.ignore_patterns(spoil)
    shutil.copytree(elsewhere, tmp_path / "other", ignore=unread)
    with pytest.raises(UserError, match=told):
        external(store, run_id, tmp_path / "other", *left)
    assert len(store.find_runs()) == before
