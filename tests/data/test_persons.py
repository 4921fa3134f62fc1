"""Names of one person across challenges, visits and data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.data.names import NameMapping, shared_patients, tcga_person
from seglab.data.sources import open_source

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


def test_every_alias_leads_to_the_same_person(mapping: NameMapping) -> None:
    assert mapping.person("Brats18_TCIA10_103_1") == "TCGA-CS-5396"
    assert mapping.person("BraTS20_Training_275") == "TCGA-CS-5396"
    assert mapping.person("TCGA_CS_5396_20010302") == "TCGA-CS-5396"
    assert mapping.person("Brats18_CBICA_AAB_1") == mapping.person("BraTS20_Training_001")


def test_unknown_cells_join_nobody(mapping: NameMapping) -> None:
    assert mapping.person("BraTS20_Training_344") == "BraTS20_Training_344"
    assert mapping.person("never heard of") == "never heard of"
    assert "NA" not in mapping.persons


def test_grade(mapping: NameMapping) -> None:
    assert mapping.grades["BraTS20_Training_275"] == "LGG"


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
        ("TCGA_CS_4941_19960909", "TCGA-CS-4941", "TCGA"),
    ],
)
def test_visits_of_one_person_are_joined_and_the_rule_is_said(
    first: str, second: str, rule: str
) -> None:
    people = NameMapping().people([first, second, "somebody else"])
    assert people[first].name == people[second].name != people["somebody else"].name
    assert rule in people[first].rule
    assert people["somebody else"].rule == ""


@pytest.mark.parametrize(
    "names",
    [
        ("BraTS20_Training_001", "BraTS20_Training_002"),
        ("BraTS-GLI-00145-000", "BraTS-GLI-00146-000"),
        ("sub-01_ses-1", "sub-11_ses-1"),
        ("case_1", "case_2"),
        ("UPENN-GBM-00001_11", "UPENN-GBM-00011_11"),
    ],
)
def test_different_persons_stay_apart(names: tuple[str, str]) -> None:
    people = NameMapping().people(names)
    assert len({person.name for person in people.values()}) == 2
    assert {person.rule for person in people.values()} == {""}


def test_rules_join_through_one_another(mapping: NameMapping, tmp_path: Path) -> None:
    listed = tmp_path / "persons.csv"
    listed.write_text("patient,person,site\nscan A,x,Oslo\nBraTS-GLI-00001-001,x,\n")
    names = ["scan A", "BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "scan B"]
    found = NameMapping.find([], listed)
    people = found.people(names)
    assert len({people[name].name for name in names[:3]}) == 1
    assert people[names[2]].rule == "data.persons, visit in the name (BraTS 2023)"
    assert people["scan B"].rule == ""


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("patient,name\na,b\n", "no column that ends in 'person'"),
        ("patient,person\na,\n", "a row without patient or person"),
        ("patient,person\na,x\na,y\n", "gives a to x and to y"),
    ],
)
def test_a_bad_table_of_persons_is_named(tmp_path: Path, table: str, said: str) -> None:
    path = tmp_path / "persons.csv"
    path.write_text(table)
    with pytest.raises(UserError, match=f"persons.csv .*{said}"):
        NameMapping.find([], path)


def test_a_table_of_other_patients_is_refused(tmp_path: Path) -> None:
    (tmp_path / "P_flair.nii").touch()
    listed = tmp_path / "persons.csv"
    listed.write_text("patient,person\nQ,x\n")
    with pytest.raises(UserError, match=r"persons\.csv .*names no patient of"):
        open_source("brats-nifti", tmp_path, persons=listed).patients()


def test_shared_patients_are_paired_by_person(mapping: NameMapping) -> None:
    ours = ["BraTS20_Training_001", "BraTS20_Training_275"]
    theirs = ["TCGA_CS_5396_20010302", "TCGA_DU_7008_19830723"]
    pairs = [("BraTS20_Training_275", "TCGA_CS_5396_20010302")]
    assert shared_patients(ours, theirs, mapping) == pairs
    assert shared_patients(ours, theirs, NameMapping()) == []


def test_table_of_another_form_is_named(tmp_path: Path) -> None:
    path = tmp_path / "name_mapping.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"name_mapping\.csv has no column that ends"):
        NameMapping.find([path])
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"name_mapping\.csv cannot be read as CSV"):
        NameMapping.find([path])


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("TCGA_DU_A5TU_19980312", "TCGA-DU-A5TU"),
        ("tcga_cs_4941", "TCGA-CS-4941"),
        ("TCGA_CS_49411", None),
        ("BraTS20_Training_001", None),
    ],
)
def test_tcga_person(name: str, person: str | None) -> None:
    assert tcga_person(name) == person
