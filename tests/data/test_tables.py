"""Tables made to harm whoever opens them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.core.tables import MAX_BYTES, read_rows
from seglab.data.persons import NameMapping
from seglab.data.sources import open_source
from seglab.evaluation.scores import read_csv
from tests.memory import growth

LARGEST_GROWTH = 100 << 20


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
    "patients_val.csv": read_csv,
}
HEADER = b"subject_ID,slice_path,Patient,neoplasm_histologic_grade,person\n"
REFUSED = {
    "huge field": HEADER + b"x" * 200_000,
    "open quote": HEADER + b'"' + b"x" * 200_000,
    "UTF-16": HEADER.decode().encode("utf-16"),
    "Latin-1": HEADER + "Müller,a,b,1\n".encode("latin-1"),
    "too large": HEADER + b"a,b,c,1\n" * (MAX_BYTES // 8 + 1),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_a_hostile_table_is_refused_by_name(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(REFUSED[kind])
    with pytest.raises(UserError, match=name) as refusal:
        READERS[name](path)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_for_a_table_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="is not a file"):
        READERS[name](tmp_path / name)


def test_many_columns_and_short_rows_take_no_memory(tmp_path: Path) -> None:
    """Filled up to its header, each of these rows would hold 100,000 cells."""
    path = tmp_path / "name_mapping.csv"
    header = ",".join(f"{i}_subject_ID" for i in range(100_000))
    path.write_text(f"{header}\n" + "x\n" * 100_000)
    assert growth(lambda: NameMapping.find([path])) < LARGEST_GROWTH


def test_cells_beyond_the_header_and_nul_are_data(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n1,2,3\n\n4\n\0,5\n")
    assert list(read_rows(path)) == [{"a": "1", "b": "2"}, {"a": "4"}, {"a": "\0", "b": "5"}]
