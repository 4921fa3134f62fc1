from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seglab.data.check import check
from seglab.data.phantom import write_phantom
from seglab.data.sources import open_source
from seglab.figures.identity_sheet import identity_sheet
from seglab.figures.style import GREEN, VERMILLION


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sheet") / "phantoms"
    write_phantom(out, patients=2, size=64, slices=16, seed=3, workers=1)
    return out


@pytest.mark.parametrize(("channel", "colour"), [(0, GREEN), (3, VERMILLION)])
def test_frame_stands_around_the_chosen_channel(
    phantoms: Path, channel: int, colour: tuple[int, int, int]
) -> None:
    source = open_source("brats-h5", phantoms, channel)
    sheet = identity_sheet(source, check(source))
    assert sheet.dtype == np.uint8
    top = sheet[100 : sheet.shape[0] // 2]
    drawn = np.all(np.abs(top.astype(int) - colour) < 3, axis=-1)
    # The frame's sides are the columns that have the colour over most of a panel's height.
    sides = np.flatnonzero(drawn.sum(axis=0) > 0.5 * drawn.sum(axis=0).max())
    quarter = sheet.shape[1] / 4
    assert (sides[0] + sides[-1]) / 2 // quarter == channel
    assert np.ptp(sides) > 0.8 * quarter


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "volume_1_slice_0.h5").write_bytes(b"not HDF5")
    source = open_source("brats-h5", tmp_path)
    with pytest.raises(ValueError, match="no slice could be read"):
        identity_sheet(source, check(source))
