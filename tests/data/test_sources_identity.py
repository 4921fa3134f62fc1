"""Names of one person across challenges and data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.data.sources import NameMapping, shared_patients
from seglab.data.sources.base import natural_key
from seglab.data.sources.identity_map import tcga_person

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
    assert mapping.grade("BraTS20_Training_275") == "LGG"
    assert mapping.grade("BraTS2021_00000") is None


def test_shared_patients_are_paired_by_person(mapping: NameMapping) -> None:
    ours = ["BraTS20_Training_001", "BraTS20_Training_275"]
    theirs = ["TCGA_CS_5396_20010302", "TCGA_DU_7008_19830723"]
    pairs = [("BraTS20_Training_275", "TCGA_CS_5396_20010302")]
    assert shared_patients(ours, theirs, mapping) == pairs
    assert shared_patients(ours, theirs, NameMapping()) == []


def test_folder_without_a_table_knows_nobody(tmp_path: Path) -> None:
    assert NameMapping.find([tmp_path / "meta_data.csv"]) == NameMapping()


def test_table_of_another_form_is_named(tmp_path: Path) -> None:
    path = tmp_path / "name_mapping.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"name_mapping\.csv has no column that ends"):
        NameMapping.read(path)
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"name_mapping\.csv cannot be read as CSV"):
        NameMapping.read(path)


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("TCGA_DU_A5TU_19980312", "TCGA-DU-A5TU"),
        ("TCGA-02-0006", "TCGA-02-0006"),
        ("tcga_cs_4941", "TCGA-CS-4941"),
        ("TCGA_CS_49411", None),
        ("BraTS20_Training_001", None),
    ],
)
def test_tcga_person(name: str, person: str | None) -> None:
    assert tcga_person(name) == person


def test_natural_order() -> None:
    names = ["a10b2", "a2", "b1", "a10b1", "a"]
    assert sorted(names, key=natural_key) == ["a", "a2", "a10b1", "a10b2", "b1"]
