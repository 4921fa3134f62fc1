"""What names tell: whose a file is and what, and which patients are one person."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.data.names import NameMapping, nifti_patients, shared_patients
from seglab.data.sources.base import open_source
from seglab.data.volume import Patient
from seglab.evaluation.scores import from_csv

FOUR = ("flair", "t1", "t1ce", "t2")


def found(tmp_path: Path, *names: str, strict: bool = True) -> list[Patient]:
    """Patients among files of these names, and any dataset.json that was written."""
    return nifti_patients([tmp_path / name for name in names], strict=strict)


def names_of(patient: Patient) -> dict[str, str]:
    return {modality: paths[0].name for modality, paths in patient.images.items()}


@pytest.mark.parametrize(
    ("patient_id", "parts", "segmentation"),
    [
        ("Brats18_2013_11_1", ("_flair", "_t1", "_t1ce", "_t2"), "_seg"),
        ("BraTS20_Training_001", ("_flair", "_t1", "_t1ce", "_t2"), "_seg"),
        ("BraTS-GLI-00145-000", ("-t2f", "-t1n", "-t1c", "-t2w"), "-seg"),
        ("BraTS-GLI-00145-001", ("_t2f", "_t1n", "_t1c", "_t2w"), "_seg"),
        ("UPENN-GBM-00001_11", ("_FLAIR", "_T1", "_T1GD", "_T2"), "_segm"),
        ("UCSF-PDGM-0004", ("_FLAIR", "_T1", "_T1c", "_T2"), "_tumor_segmentation"),
        ("sub-01_ses-02", ("_FLAIR", "_T1w", "_ce-gadolinium_T1w", "_T2w"), "_dseg"),
        ("sub-7", ("_FLAIR", "_acq-3D_T1w", "_acq-3D_ce-gd_T1w", "_T2w"), "_label-lesion_mask"),
    ],
)
def test_families_of_names(
    tmp_path: Path, patient_id: str, parts: tuple[str, ...], segmentation: str
) -> None:
    files = [f"{patient_id}{part}.nii.gz" for part in (*parts, segmentation)]
    (patient,) = found(tmp_path, *files)
    assert patient.patient_id == patient_id
    assert names_of(patient) == dict(zip(FOUR, files, strict=False))
    assert [path.name for path in patient.label_files] == files[4:]


def test_files_named_by_modality_alone_belong_to_their_folder(tmp_path: Path) -> None:
    first, second = found(tmp_path, "a/FLAIR.nii", "a/seg.nii", "b/flair.nii", "b/t1ce.nii.gz")
    assert (first.patient_id, second.patient_id) == ("a", "b")
    assert first.label_files == (tmp_path / "a/seg.nii",)
    assert tuple(second.images) == ("flair", "t1ce")


def write_dataset(root: Path, **content: object) -> str:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    return f"{root.name}/dataset.json"


def test_nnunet_files_are_told_by_their_dataset(tmp_path: Path) -> None:
    regions = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing": 3}
    dataset = write_dataset(tmp_path / "D", channel_names={"0": "T1", "1": "FLAIR"}, labels=regions)
    files = ["D/imagesTr/case_1_0000.nii.gz", "D/imagesTr/case_1_0001.nii.gz"]
    (patient,) = found(tmp_path, dataset, *files, "D/labelsTr/case_1.nii.gz")
    assert patient.patient_id == "case_1"
    assert names_of(patient) == {"t1": "case_1_0000.nii.gz", "flair": "case_1_0001.nii.gz"}
    assert patient.label_files == (tmp_path / "D/labelsTr/case_1.nii.gz",)
    assert patient.label_map == {1: 2, 2: 1, 3: 3}
    assert not patient.channels


def test_channels_of_another_kind_are_no_patients(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "D", channel_names={"0": "SWI", "1": "FLAIR"})
    names = [f"D/imagesTr/{name}.nii" for name in ("a_0000", "a_0001", "b")]
    first, second = found(tmp_path, dataset, *names)
    assert names_of(first) == {"flair": "a_0001.nii"}
    assert second.channels == {"flair": 1}
    write_dataset(tmp_path / "D", channel_names={"0": "SWI", "1": "ADC"})
    said = r"D/dataset\.json names the channels swi, adc; no image beside it is one of flair, t1,"
    with pytest.raises(UserError, match=said):
        found(tmp_path, dataset, *names)


def test_other_masks_are_no_tumour(tmp_path: Path) -> None:
    masks = "brainmask brain_mask brain_segmentation aseg desc-brain_mask segmented unmasked"
    others = f"{masks} label-WM_mask flair_pred".split()
    (patient,) = found(tmp_path, "P_flair.nii", *(f"P_{name}.nii.gz" for name in others))
    assert patient.label_files == ()


def test_a_plain_name_goes_before_a_longer_one_and_others_are_not_guessed(tmp_path: Path) -> None:
    several = ("P_flair.nii", "P_automated_segm.nii", "P_other_segm.nii")
    (patient,) = found(tmp_path, *several)
    assert len(patient.label_files) == 2
    (patient,) = found(tmp_path, *several, "labels/P_segm.nii")
    assert [path.name for path in patient.label_files] == ["P_segm.nii"]


def test_a_segmentation_of_any_name_goes_to_the_only_patient_of_its_folder(tmp_path: Path) -> None:
    files = ("355/X_355_flair.nii", "355/W39_1998.09.19_Segm.nii", "1/X_1_flair.nii")
    first, second = found(tmp_path, *files, "1/X_1_seg.nii")
    assert first.label_files == (tmp_path / "1/X_1_seg.nii",)
    assert second.label_files == (tmp_path / "355/W39_1998.09.19_Segm.nii",)
    for patient in found(tmp_path, "a_flair.nii", "b_flair.nii", "W39_Segm.nii"):
        assert not patient.label_files
    (only,) = found(tmp_path, "a_flair.nii", "first_Segm.nii", "second_Segm.nii")
    assert not only.label_files


def test_two_files_of_one_modality_are_an_error_or_two_scans(tmp_path: Path) -> None:
    files = ("a/P_flair.nii", "b/P_flair.nii", "b/P_seg.nii")
    with pytest.raises(UserError, match=r"a/P_flair\.nii and .*b/P_flair\.nii are both the flair"):
        found(tmp_path, *files)
    first, second = found(tmp_path, *files, strict=False)
    assert (first.label_files, len(second.label_files)) == ((), 1)


TABLE = """\ufeffGrade,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2020_subject_ID
HGG,Brats18_CBICA_AAB_1,NA,BraTS20_Training_001
LGG,Brats18_TCIA10_103_1,TCGA-CS-5396,BraTS20_Training_275
HGG,NA,NA,BraTS20_Training_344
"""


@pytest.fixture
def mapping(tmp_path: Path) -> NameMapping:
    path = tmp_path / "name_mapping.csv"
    path.write_text(TABLE, encoding="utf-8")
    return NameMapping.find([tmp_path / "other.csv", path])


def test_sites_are_told_by_tables_and_names(mapping: NameMapping, tmp_path: Path) -> None:
    sites = {
        "BraTS20_Training_001": "CBICA",
        "BraTS20_Training_275": "TCIA10",
        "BraTS20_Training_344": "",
        "BraTS19_TMC_06290_1": "TMC",
        "brats_2013_pat0001_1": "2013",
        "TCGA_DU_7008_19830723": "TCGA-DU",
    }
    assert {name: mapping.site(name) for name in sites} == sites
    found = with_persons(tmp_path, "patient,person,site\nA,x,Oslo\nBraTS20_Training_001,y,\n")
    assert [found.site(name) for name in ("A", "BraTS20_Training_001")] == ["Oslo", "CBICA"]


@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [
        ("BraTS-GLI-00145-000", "BraTS-GLI-00145-001", "BraTS 2023"),
        ("Brats18_CBICA_AAB_1", "Brats18_CBICA_AAB_2", "BraTS 2017"),
        ("UPENN-GBM-00001_11", "UPENN-GBM-00001_21", "UPENN-GBM"),
        ("UCSF-PDGM-0433", "UCSF-PDGM-0433_FU003d", "UCSF-PDGM"),
        ("sub-01_ses-pre", "sub-01_ses-post", "BIDS"),
        ("Patient-003_week-000-1", "Patient-003_week-044", "time point"),
        ("P12_timepoint_1", "P12_timepoint_2", "time point"),
        ("P12_scan-1", "P12_scan-2", "time point"),
        ("TCGA_CS_4941_19960909", "TCGA-CS-4941", "TCGA"),
    ],
)
def test_visits_of_one_person_are_joined(first: str, second: str, rule: str) -> None:
    people = NameMapping().people([first, second, "another"])
    assert people[first].name == people[second].name != people["another"].name
    assert rule in people[first].rule
    assert people["another"].rule == ""


DIFFERENT = """
BraTS20_Training_001 BraTS20_Training_002 BraTS-GLI-00145-000 BraTS-GLI-00146-000 sub-01_ses-1
sub-11_ses-1 case_1 case_2 glioma_scan_000 glioma_scan_005 case_tp53_001 case_tp53_002 P1_scanner1
P1_scanner2 UPENN-GBM-00001_11 UPENN-GBM-00011_11
"""


def test_different_persons_stay_apart() -> None:
    names = DIFFERENT.split()
    people = NameMapping().people(names)
    assert len({person.name for person in people.values()}) == len(names)
    assert {person.rule for person in people.values()} == {""}


def with_persons(tmp_path: Path, table: str) -> NameMapping:
    path = tmp_path / "persons.csv"
    path.write_text(table)
    return NameMapping.find(tmp_path.glob("name_mapping.csv"), path)


def test_rules_join_through_one_another_and_the_table_goes_before_names(tmp_path: Path) -> None:
    table = "patient,person\nscan A,BraTS-GLI-00001\nP1_visit_1,a\nP1_visit_2,b\n"
    names = ["scan A", "BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "scan B", "P1_visit_1"]
    people = with_persons(tmp_path, table).people([*names, "P1_visit_2"])
    assert len({people[name].name for name in names[:3]}) == 1
    assert people["scan A"].rule == "data.persons"
    assert people["scan B"].rule == ""
    assert [people[f"P1_visit_{n}"].name for n in (1, 2)] == ["a", "b"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("patient,name\na,b\n", "no column that ends in 'person'"),
        ("patient,person\na,\n", "a row without patient or person"),
        ("patient,person\na,x\na,y\n", "gives a to x and to y"),
    ],
)
def test_a_bad_table_of_persons_is_named(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(UserError, match=f"persons.csv .*{said}"):
        with_persons(tmp_path, table)


def test_a_table_of_other_patients_is_refused(tmp_path: Path) -> None:
    (tmp_path / "P_flair.nii").touch()
    listed = tmp_path / "persons.csv"
    listed.write_text("patient,person\nQ,x\n")
    with pytest.raises(UserError, match=r"persons\.csv .*names no patient of"):
        open_source("brats-nifti", tmp_path, persons=listed).patients()


def test_every_alias_leads_to_the_same_person_and_pairs_sets(mapping: NameMapping) -> None:
    one = ["Brats18_TCIA10_103_1", "BraTS20_Training_275", "TCGA_CS_5396_20010302"]
    ours = ["BraTS20_Training_001", one[1]]
    people = mapping.people([*one, "Brats18_CBICA_AAB_1", ours[0]])
    assert {people[name].name for name in one} == {"TCGA-CS-5396"}
    assert people["Brats18_CBICA_AAB_1"].name == people[ours[0]].name != "TCGA-CS-5396"
    theirs = [one[2], "TCGA_DU_7008_19830723"]
    assert shared_patients(ours, theirs, mapping) == [(one[1], one[2])]
    assert shared_patients(ours, theirs, NameMapping()) == []


def read_listing(path: Path) -> object:
    path.with_name("volume_1_slice_0.h5").touch()
    return open_source("brats-h5", path.parent).missing_files()


def read_grades(path: Path) -> object:
    path.with_name("TCGA_CS_4941_19960909_1.tif").touch()
    return open_source("lgg-tif", path.parent).patients()


READERS: dict[str, Callable[[Path], object]] = {
    "name_mapping.csv": lambda path: NameMapping.find([path]),
    "persons.csv": lambda path: NameMapping.find([], path),
    "meta_data.csv": read_listing,
    "data.csv": read_grades,
    "patients_val.csv": lambda path: from_csv(path.read_bytes(), str(path)),
}
HEADER = b"subject_ID,slice_path,Patient,neoplasm_histologic_grade,person\n"
REFUSED = {
    "huge field": HEADER + b"x" * 200_000,
    "open quote": HEADER + b'"' + b"x" * 200_000,
    "UTF-16": HEADER.decode().encode("utf-16"),
    "Latin-1": HEADER + "Müller,a,b,1\n".encode("latin-1"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(REFUSED[kind])
    with pytest.raises(UserError, match=name) as refusal:
        READERS[name](path)
    assert len(str(refusal.value)) < 500
