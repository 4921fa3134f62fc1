"""All modalities of one slice side by side, with what was judged: is each what its name says?"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seglab.core.config import MODALITIES
from seglab.data.check import CheckReport
from seglab.data.identity import ModalityIdentity, find_head
from seglab.data.labels import ENHANCING, NON_ENHANCING, OEDEMA, UNKNOWN_PART
from seglab.data.sources import Source
from seglab.figures.panels import draw_flair, radiological
from seglab.figures.style import GREEN, ORANGE, PURPLE, RGB, SKY_BLUE, VERMILLION, YELLOW, unit
from seglab.figures.window import brain_window, cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UInt8 = NDArray[np.uint8]

DPI: Final = 110
PANEL_INCHES: Final = 3.4
SCALE: Final = 3
"""Screen pixels of an image pixel, before the figure is drawn."""
PAPER: Final = (0.07, 0.07, 0.08)
PARTS: Final[dict[int, tuple[str, RGB]]] = {
    OEDEMA: ("oedema", ORANGE),
    NON_ENHANCING: ("core without enhancement", SKY_BLUE),
    ENHANCING: ("enhancing tumour", PURPLE),
    UNKNOWN_PART: ("tumour", ORANGE),
}
COLOURS: Final = {"proven": GREEN, "not provable": YELLOW, "wrong": VERMILLION}


def identity_sheet(source: Source, report: CheckReport) -> UInt8:
    """Draw the slice with most tumour of the checked set, in radiological orientation.

    Each modality is framed in the colour of its verdict; below it stand the figures that
    decided, medians over patients.

    Returns:
        (height, width, 3) RGB uint8.

    Raises:
        ValueError: the report has no example, because no file could be read.
        UserError: the example's files have gone since.
    """
    from matplotlib.figure import Figure

    if report.example is None:
        raise ValueError("no slice could be read, so there is nothing to draw")
    name, place = report.example
    patient = next(each for each in source.patients() if each.patient_id == name)
    volume = source.read(patient, [one for one in MODALITIES if one in patient.images])
    images = np.ascontiguousarray(radiological(volume.images[:, place], source.upright))
    labels = np.ascontiguousarray(radiological(volume.labels[place], source.upright))
    window = brain_window(find_head(images[0])[0][None].astype(np.uint8))
    judged = {one.modality: one for one in report.identity.modalities}
    size = (PANEL_INCHES * len(images), PANEL_INCHES + 1.9)
    figure = Figure(figsize=size, dpi=DPI, facecolor=PAPER, layout="constrained")
    panels = figure.subplots(1, len(images), squeeze=False)[0]
    for axes, image, modality in zip(panels, images, volume.modalities, strict=True):
        drawn = _outlined(cut(_grey(image), window), cut(labels, window))
        _show(axes, drawn, judged[modality])
    _write_title(figure, f"{name}, slice {volume.slice_indices[place]}", np.unique(labels))
    return _pixels(figure)


def _grey(image: NDArray[np.float32]) -> UInt8:
    low, high = np.percentile(image, (1, 99.7))
    scaled = (image - low) / max(float(high - low), 1e-6)
    return np.asarray(255 * np.clip(scaled, 0, 1), np.uint8)


def _outlined(grey: UInt8, labels: UInt8) -> UInt8:
    canvas = draw_flair(grey, upright=True, scale=SCALE)
    for part, (_, colour) in PARTS.items():
        mask = np.repeat(np.repeat(labels == part, SCALE, axis=0), SCALE, axis=1)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, colour, 1)
    return canvas


def _show(axes: Axes, drawn: UInt8, judged: ModalityIdentity) -> None:
    colour = unit(COLOURS[judged.verdict])
    axes.imshow(drawn, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=4)
    axes.set_title(f"{judged.modality}: {judged.verdict}", color=colour, fontsize=12)
    words = textwrap.fill(f"{judged.reason}; {judged.patients} patients", 46)
    axes.set_xlabel(words, color="0.85", fontsize=9, loc="left")


def _write_title(figure: Figure, title: str, parts: NDArray[np.uint8]) -> None:
    figure.suptitle(
        f"{title} (R: the patient's right)", color="0.85", fontsize=11, x=0.01, ha="left"
    )
    shown = [PARTS[part] for part in parts if part]
    for place, (word, colour) in enumerate(shown, start=1):
        figure.text(1 - 0.16 * place, 0.99, word, color=unit(colour), fontsize=10, va="top")


def _pixels(figure: Figure) -> UInt8:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
