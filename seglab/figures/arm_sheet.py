"""The same patients drawn under every arm, so that eyes compare what the tables do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from seglab.figures.comparison import WIDTH, plain
from seglab.figures.panels import draw_flair, draw_overlay, radiological
from seglab.figures.style import AGREEMENT, FALSE_ALARM, MISSED, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UInt8 = NDArray[np.uint8]
SCALE: Final = 3
MARGIN_PX: Final = 4
LABEL: Final = 0.16
"""Width of the rows' names, in columns."""


@dataclass(frozen=True)
class SheetPatient:
    """One column: a slice, its truth, and the rows' predictions of it."""

    patient_id: str
    caption: str
    image: UInt8
    """(H, W) as stored in the source, 0 is background."""
    truth: UInt8
    """(H, W) in {0, 1}."""
    predictions: Sequence[UInt8]
    """(H, W) in {0, 1}, one an arm."""
    labels: Sequence[str]
    """Written under each prediction."""


def arm_sheet(patients: Sequence[SheetPatient], arms: Sequence[str], upright: bool) -> Figure:
    """Draw a column a patient: the slice alone, then each arm's overlay beneath it.

    Args:
        patients: at least one, each with a prediction for every arm.
        arms: names of the rows.
        upright: False where the source stores slices on their side.
    """
    from matplotlib.figure import Figure

    side = WIDTH / (len(patients) + LABEL)
    rows = len(arms) + 1
    figure = Figure(figsize=(WIDTH, rows * side * 1.12 + 0.9), dpi=110, facecolor="black")
    top = 1 - 0.75 / figure.get_figheight()
    grid = figure.subplots(rows, len(patients), squeeze=False)
    figure.subplots_adjust(LABEL / (len(patients) + LABEL), 0.02, 0.995, top, 0.03, 0.14)
    for column, patient in enumerate(patients):
        image = radiological(patient.image, upright)
        window = brain_window(image)
        image, truth = image[window], radiological(patient.truth, upright)[window]
        _show(grid[0][column], draw_flair(image, upright=True, scale=SCALE), patient.caption)
        _title(grid[0][column], patient.patient_id)
        for row, (prediction, label) in enumerate(
            zip(patient.predictions, patient.labels, strict=True), start=1
        ):
            drawn = radiological(prediction, upright)[window]
            overlay = draw_overlay(image, truth, drawn, upright=True, scale=SCALE)
            _show(grid[row][column], overlay, label)
    for row, name in enumerate(["FLAIR", *arms]):
        grid[row][0].set_ylabel(plain(name), color="white", fontsize=10)
    _legend(figure)
    return figure


def brain_window(image: UInt8) -> tuple[slice, slice]:
    """Square window (rows, columns) around all that is not background, within the slice."""
    rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return slice(0, image.shape[0]), slice(0, image.shape[1])
    side = int(max(np.ptp(rows), np.ptp(columns))) + 1 + 2 * MARGIN_PX
    return _centred(rows, side, image.shape[0]), _centred(columns, side, image.shape[1])


def _centred(occupied: NDArray[np.intp], side: int, length: int) -> slice:
    start = int(occupied[0] + occupied[-1] + 1 - side) // 2
    start = max(0, min(start, length - side))
    return slice(start, min(start + side, length))


def _show(axes: Axes, picture: UInt8, caption: str) -> None:
    axes.imshow(picture, interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel(caption, color="0.85", fontsize=9, labelpad=2)


def _title(axes: Axes, patient_id: str) -> None:
    short = patient_id if len(patient_id) <= 24 else f"…{patient_id[-23:]}"
    axes.set_title(plain(short), color="white", fontsize=9, pad=3)


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor="none", edgecolor=unit(AGREEMENT), linewidth=2, label="agreement"),
        Patch(color=unit(MISSED), label="missed: truth only"),
        Patch(color=unit(FALSE_ALARM), label="false alarm: prediction only"),
    ]
    figure.legend(
        handles=handles,
        loc="upper center",
        ncols=3,
        frameon=False,
        labelcolor="white",
        fontsize=10,
    )
