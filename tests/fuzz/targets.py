"""One function a reader: it takes any bytes, and may end well or with the reader's own error."""

from __future__ import annotations

import atexit
import gzip
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

import seglab.studies.components  # noqa: F401  (registers what a YAML may name)
from seglab.core.errors import UserError
from seglab.core.study import load_study
from seglab.data.cache.files import INDEX, digest
from seglab.data.cache.store import open_cache
from seglab.data.check.layout import layout
from seglab.data.scans import Scan, check_image, find_scans
from seglab.data.sources import NameMapping, Source, open_source
from seglab.data.splits import load_split
from seglab.evaluation.scores import read_csv, summarise
from tests.fuzz import seeds

CASE = "TCGA_CS_4941_19960909"
LARGEST_WRITTEN = 2**20
"""Voxels of a scan whose mask is written too."""


@dataclass(frozen=True)
class Target:
    """A reader, sound files for it, and words that mean something to it."""

    read: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    words: tuple[bytes, ...] = ()


refused: list[str] = []
"""What the readers said of the last input."""


@contextmanager
def refusing(*others: type[Exception]) -> Iterator[None]:
    """Let a reader refuse its file with its own error, and keep what it said."""
    try:
        yield
    except (UserError, *others) as error:
        refused.append(str(error))


def yaml_files(data: bytes) -> None:
    """An experiment, its base and its overrides, each after a NUL."""
    text, base, overrides, *_ = [*data.split(seeds.NUL, 2), b"", b""]
    folder = scratch("yaml")
    (folder / "base.yaml").write_bytes(base)
    (folder / "baseline.yaml").write_bytes(base)
    path = folder / "x.yaml"
    path.write_bytes(text)
    given = [line for line in overrides.decode(errors="replace").splitlines() if line]
    with refusing():
        study = load_study(path, given)
        study.run.hash()
        yaml.safe_dump(study.run.to_dict())


def h5_files(data: bytes) -> None:
    path = scratch("h5") / "volume_1_slice_0.h5"
    path.write_bytes(data)
    _read_source(open_source("brats-h5", path.parent), path)
    _read_scans(path)


def nifti_files(data: bytes) -> None:
    folder = scratch("nifti")
    kind, body = data[:1], data[1:]
    if kind == b"\1":
        body = gzip.compress(body, 1)
    plain, packed = folder / "P_flair.nii", folder / "P_flair.nii.gz"
    path, other = (plain, packed) if kind in (b"", b"\0") else (packed, plain)
    other.unlink(missing_ok=True)
    path.write_bytes(body)
    labels = folder / "P_seg.nii"
    if not labels.exists():
        labels.write_bytes(seeds.nifti_files()[0][1:])
    _read_source(open_source("brats-nifti", folder), path)
    _read_scans(path)


def tiff_files(data: bytes) -> None:
    folder = scratch("tiff")
    path = folder / f"{CASE}_1.tif"
    path.write_bytes(data)
    mask = folder / f"{CASE}_1_mask.tif"
    if not mask.exists():
        Image.fromarray(np.ones((seeds.SIDE, seeds.SIDE), np.uint8)).save(mask)
    _read_source(open_source("lgg-tif", folder), path)
    _read_scans(path)


def name_mappings(data: bytes) -> None:
    path = scratch("csv") / "name_mapping.csv"
    path.write_bytes(data)
    with refusing():
        mapping = NameMapping.read(path)
        mapping.person("BraTS20_Training_001")


def listings(data: bytes) -> None:
    folder = scratch("listing")
    (folder / "volume_1_slice_0.h5").touch()
    (folder / "meta_data.csv").write_bytes(data)
    source = open_source("brats-h5", folder)
    with refusing():
        source.missing_files()
        source.patients()


def grade_tables(data: bytes) -> None:
    folder = scratch("grades")
    (folder / f"{CASE}_1.tif").touch()
    (folder / "data.csv").write_bytes(data)
    with refusing():
        open_source("lgg-tif", folder).patients()


def score_tables(data: bytes) -> None:
    path = scratch("scores") / "patients_val.csv"
    path.write_bytes(data)
    with refusing():
        summarise(read_csv(path))


def split_files(data: bytes) -> None:
    path = scratch("split") / "split.json"
    path.write_bytes(data)
    with refusing():
        load_split(path)


def cache_indices(data: bytes) -> None:
    """An index that lies, signed so that its lies are believed."""
    folder = scratch("cache")
    for name, content in seeds.cache_files().items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    with suppress(ValueError, RecursionError):
        index = json.loads(data)
        if isinstance(index, dict):
            signed = {k: v for k, v in index.items() if k not in ("data_hash", "skipped")}
            data = json.dumps({**index, "data_hash": digest(signed)}).encode()
    (folder / INDEX).write_bytes(data)
    with refusing():
        opened = open_cache(folder)
        opened.masks(slice(0, 1))
        for patient in opened.patients:
            opened.native_mask(patient)
            opened.native_image(patient)


def _read_source(source: Source, path: Path) -> None:
    with refusing():
        volume = source.read(source.patients()[0])
        assert np.isfinite(volume.image).all()
        assert volume.mask.max() <= 1
    with refusing():
        source.read_channels(path)
        layout(path)


def _read_scans(path: Path) -> None:
    scans, _ = find_scans([path])
    with refusing():
        _read_scan(scans[0])


def _read_scan(scan: Scan) -> None:
    pixels = scan.read()
    check_image(scan.path, pixels.image)
    if pixels.image.size <= LARGEST_WRITTEN and pixels.stack_size <= 1024:
        out = scratch("out")
        scan.write(pixels.image > 0, pixels, out)


@cache
def _scratch() -> Path:
    """One folder a process, in memory where the system has such a place."""
    logging.disable()  # nibabel comments on every odd header
    warnings.simplefilter("ignore")
    fast = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=fast if fast.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sys.setrecursionlimit(1000)
    return folder


def scratch(name: str) -> Path:
    folder = _scratch() / name
    folder.mkdir(exist_ok=True)
    return folder


TAGS = (b"!!int ''", b"!!timestamp x", b"!!bool x", b"!!float ''", b"!!set {a}", b"!!binary x=")
NUMBERS = (b"0x" + b"f" * 5000, b"1:1:1:" * 50 + b"1.5", b".inf", b".nan", b"null", b"1e400", b"-1")
YAML = (b"search:", b"arms:", b"[", b"{", b"- ", b": ", b"\n", b"<<: ", b"? ", b"=x", b'"\\ud800"')
JSON = (b"null", b"-1", b"[]", b"{}", b'"x"', b"1e400", b"[" * 3000, b"9" * 20, b"true")
CSV = (b",", b'"', b"\r", b"\n", b"\0", b"\xff", b"9" * 5000, b"nan", b"-1", b"x" * 140000)

TARGETS: dict[str, Target] = {
    "yaml": Target(
        yaml_files,
        seeds.yaml_files,
        (*TAGS, *NUMBERS, *YAML),
    ),
    "h5": Target(h5_files, seeds.h5_files),
    "nifti": Target(nifti_files, seeds.nifti_files),
    "tiff": Target(tiff_files, seeds.tiff_files),
    "name-mapping": Target(name_mappings, seeds.name_mappings, CSV),
    "listing": Target(listings, seeds.listings, CSV),
    "grades": Target(grade_tables, seeds.grade_tables, CSV),
    "scores": Target(score_tables, seeds.score_tables, CSV),
    "split": Target(split_files, seeds.split_files, JSON),
    "cache": Target(cache_indices, seeds.cache_indices, JSON),
}
