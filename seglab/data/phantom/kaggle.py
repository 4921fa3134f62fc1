"""The Kaggle layout of BraTS 2020: one HDF5 file a slice, and three tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from seglab.data.phantom.grid import Array, Grid
from seglab.data.phantom.lesions import ENHANCING, NECROSIS, OEDEMA, Labels
from seglab.data.sources.hdf5 import SPACING

CONTENT = Path("BraTS2020_training_data") / "content" / "data"
"""Where the slices lie below the root of the set."""
PLANES = (NECROSIS, OEDEMA, ENHANCING)
"""Label of each plane of ``mask``, in order."""

_CHUNK_PX = 60
_ROOT_TABLE = "BraTS20 Training Metadata.csv"
_ROOT_PREFIX = f"../input/brats2020-training-data/{CONTENT.as_posix()}"
_META_COLUMNS = (
    "slice_path",
    "target",
    "volume",
    "slice",
    "label0_pxl_cnt",
    "label1_pxl_cnt",
    "label2_pxl_cnt",
    "background_ratio",
)
_MAPPING_COLUMNS = (
    "Grade",
    "BraTS_2017_subject_ID",
    "BraTS_2018_subject_ID",
    "TCGA_TCIA_subject_ID",
    "BraTS_2019_subject_ID",
    "BraTS_2020_subject_ID",
)


@dataclass(frozen=True)
class SliceRow:
    """One slice in the tables."""

    volume: int
    slice_index: int
    pixels: tuple[int, int, int]
    """Pixels of each plane of the mask."""
    background: float
    """Share of the frame without a label."""

    @property
    def file_name(self) -> str:
        """Name of the slice's file."""
        return f"volume_{self.volume}_slice_{self.slice_index}.h5"


def standardise(image: Array) -> npt.NDArray[np.float64]:
    """Z-score one slice (H, W, C) per channel over the whole frame, background included.

    A constant channel becomes 0.
    """
    wide = image.astype(np.float64)
    spread = wide.std((0, 1))
    scores: npt.NDArray[np.float64] = (wide - wide.mean((0, 1))) / np.where(spread > 0, spread, 1)
    return scores


def write_volume(folder: Path, volume: int, image: Array, labels: Labels) -> list[SliceRow]:
    """Write a patient's slices; each states the spacing, which differs where few were asked for.

    Args:
        folder: the ``CONTENT`` folder, which exists.
        volume: the patient's number.
        image: (S, H, W, 4) in scanner units.
        labels: (S, H, W) uint8 in {0, 1, 2, 4}.

    Returns:
        One row a slice.
    """
    rows, spacing_mm = [], Grid(image.shape[1], image.shape[0]).voxel_mm
    for index, (pixels, truth) in enumerate(zip(image, labels, strict=True)):
        mask = np.stack([truth == label for label in PLANES], axis=-1).astype(np.uint8)
        counts = tuple(int(count) for count in mask.sum((0, 1), dtype=np.int64))
        row = SliceRow(
            volume, index, (counts[0], counts[1], counts[2]), 1 - sum(counts) / truth.size
        )
        with h5py.File(folder / row.file_name, "w") as file:
            _write_array(file, "image", standardise(pixels), 1)
            file["image"].attrs[SPACING] = spacing_mm
            _write_array(file, "mask", mask, 2)
        rows.append(row)
    return rows


def _write_array(file: h5py.File, key: str, values: np.ndarray, planes: int) -> None:
    side_y, side_x = (min(_CHUNK_PX, side) for side in values.shape[:2])
    # The fastest level: on noisy floats a higher one saves little and costs twice the time.
    chunks = (side_y, side_x, planes)
    file.create_dataset(key, data=values, chunks=chunks, compression="gzip", compression_opts=1)


def write_tables(
    root: Path, rows: Sequence[SliceRow], grades: Iterable[tuple[int, str | None]]
) -> None:
    """Write the slice tables (with the paths of Kaggle's machines) and the name mapping."""
    for path, prefix in (
        (root / CONTENT / "meta_data.csv", "/content/data"),
        (root / _ROOT_TABLE, _ROOT_PREFIX),
    ):
        _write_csv(path, _META_COLUMNS, (_meta(row, prefix) for row in rows))
    names = (
        (grade or "NA", "NA", "NA", "NA", "NA", f"BraTS20_Training_{volume:03d}")
        for volume, grade in grades
    )
    _write_csv(root / CONTENT / "name_mapping.csv", _MAPPING_COLUMNS, names)


def _meta(row: SliceRow, prefix: str) -> tuple[object, ...]:
    target = int(any(row.pixels))
    path = f"{prefix}/{row.file_name}"
    return path, target, row.volume, row.slice_index, *row.pixels, row.background


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
