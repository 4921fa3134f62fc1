from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from seglab.data.check import check
from seglab.data.sources.base import open_source
from seglab.figures.sheets import COLOURS, identity_sheet
from tests.data.test_check import swap
from tests.figures.pixels import pixels


def framed(sheet: np.ndarray, colour: tuple[int, int, int]) -> set[int]:
    """Which of four panels have a frame of this colour, over most of their height."""
    drawn = np.all(np.abs(sheet.astype(int) - colour) < 3, axis=-1)
    columns = np.flatnonzero(drawn.sum(axis=0) > 0.6 * len(sheet))
    return set((4 * columns // sheet.shape[1]).tolist())


def test_swapped_modalities_are_framed_as_wrong(phantoms: Path, tmp_path: Path) -> None:
    swapped = shutil.copytree(phantoms, tmp_path / "swapped")
    swap(swapped, 0, 3)
    source = open_source("brats-h5", swapped)
    sheet = pixels(identity_sheet(source, check(source)))
    assert sheet.dtype == np.uint8
    assert framed(sheet, COLOURS["wrong"]) == {0, 3}
    assert framed(sheet, COLOURS["proven"]) == {1, 2}
