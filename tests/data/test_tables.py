"""Tables that cannot be read are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.data.names import NameMapping
from seglab.data.sources.base import open_source
from seglab.evaluation.scores import from_csv


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
