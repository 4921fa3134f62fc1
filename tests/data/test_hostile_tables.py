"""TIFF files and tables made to harm whoever opens them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglab.core.errors import UserError
from seglab.core.tables import MAX_BYTES, read_rows
from seglab.data.scans import find_scans
from seglab.data.sources import NameMapping, open_source
from seglab.data.sources.base import natural_key
from seglab.evaluation.scores import read_csv
from tests.fuzz.memory import growth

CASE = "TCGA_CS_4941_19960909"
LARGEST_GROWTH = 100 << 20
WIDTH, HEIGHT, ROWS_PER_STRIP = 256, 257, 278


def colour_tiff(path: Path, compression: str | None = None) -> Path:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path, compression=compression)
    return path


def claim(path: Path, **fields: int) -> None:
    """Overwrite fields of the first directory of a little-endian TIFF."""
    numbers = {"width": WIDTH, "height": HEIGHT, "strip": ROWS_PER_STRIP, "colours": 277}
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    for place in range(first + 2, first + 2 + 12 * count, 12):
        (number,) = struct.unpack_from("<H", content, place)
        for name, value in fields.items():
            if numbers[name] == number:
                struct.pack_into("<HII", content, place + 2, 4, 1, value)
    path.write_bytes(bytes(content))


def _thumbnail_first(path: Path) -> None:
    pages = [Image.new("L", (1024, 1024)) for _ in range(100)]
    Image.new("L", (2, 2)).save(
        path, save_all=True, append_images=pages, compression="tiff_adobe_deflate"
    )


def _circle(path: Path) -> None:
    """The directory names itself as the next one, and its strip lies nowhere."""
    content = bytearray(colour_tiff(path).read_bytes()[:-500])
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * count, first)
    path.write_bytes(bytes(content))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "huge": lambda path: claim(colour_tiff(path), width=2**31 - 1, height=2**31 - 1),
    "larger than allowed": lambda path: claim(colour_tiff(path), width=100_000),
    "empty": lambda path: claim(colour_tiff(path), width=0),
    "bomb": lambda path: claim(
        colour_tiff(path, "tiff_adobe_deflate"), width=60_000, height=60_000, strip=60_000
    ),
    "many colours": lambda path: claim(colour_tiff(path), colours=60_000),
    "more rows than stored": lambda path: claim(colour_tiff(path), height=1000),
    "thumbnail before large pages": _thumbnail_first,
    "circle": _circle,
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tiff_is_refused_and_costs_little(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{CASE}_1.tif"
    HOSTILE[kind](path)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / f"{CASE}_1_mask.tif")
    source = open_source("lgg-tif", tmp_path)

    def refuse() -> None:
        with pytest.raises(UserError, match=path.name):
            source.read(source.patients()[0])
        with pytest.raises(UserError, match=path.name):
            find_scans([path])[0][0].read()

    assert growth(refuse) < LARGEST_GROWTH


def read_listing(path: Path) -> object:
    path.with_name("volume_1_slice_0.h5").touch()
    return open_source("brats-h5", path.parent).missing_files()


def read_grades(path: Path) -> object:
    path.with_name(f"{CASE}_1.tif").touch()
    return open_source("lgg-tif", path.parent).patients()


READERS: dict[str, Callable[[Path], object]] = {
    "name_mapping.csv": NameMapping.read,
    "meta_data.csv": read_listing,
    "data.csv": read_grades,
    "patients_val.csv": read_csv,
}
HEADER = b"subject_ID,slice_path,Patient,neoplasm_histologic_grade\n"
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
    assert growth(lambda: NameMapping.read(path)) < LARGEST_GROWTH


def test_cells_beyond_the_header_and_nul_are_data(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n1,2,3\n\n4\n\0,5\n")
    assert list(read_rows(path)) == [{"a": "1", "b": "2"}, {"a": "4"}, {"a": "\0", "b": "5"}]


@pytest.mark.parametrize("count", ["-1", "9" * 30, "1e3", "nan"])
def test_counts_of_pixels_are_counts(tmp_path: Path, count: str) -> None:
    from tests.fuzz.seeds import score_tables

    header, row, *_ = score_tables()[0].decode().splitlines()
    cells = row.split(",")
    cells[header.split(",").index("tp")] = count
    path = tmp_path / "patients_val.csv"
    path.write_text(f"{header}\n{','.join(cells)}\n")
    with pytest.raises(UserError, match="row 2, column 'tp'"):
        read_csv(path)


@pytest.mark.parametrize("name", ["a1²2", "²", "٣", "x" * 200 + "1"])
def test_any_file_name_can_be_put_in_order(name: str) -> None:
    assert sorted([name, "a2", "a10"], key=natural_key).index("a2") < 3
