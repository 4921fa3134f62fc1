"""One picture that shows what each augmentation does to a slice and its mask."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seglab.core.registry import AUGMENTATIONS
from seglab.data.augment import Augmenter
from seglab.figures.panels import radiological
from seglab.figures.style import ORANGE, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pair = tuple[np.ndarray, np.ndarray]

DRAWS = 2
TRIES = 50
CELLS_PER_ROW = 4
TILE_INCHES = 1.5
DPI = 110


def augmentation_sheet(
    image: np.ndarray, mask: np.ndarray, names: Sequence[str], mirror_axis: int, seed: int = 0
) -> np.ndarray:
    """Draw ``image`` with its mask's outline as it is and under each augmentation, twice.

    Args:
        image: (H, W) or (H, W, C) uint8 as the cache holds it; the middle channel is shown.
        mask: (H, W) uint8 in {0, 1}.
        names: of ``AUGMENTATIONS``; each is applied with certainty where it has a ``p``.
        mirror_axis: 0 where slices lie on their side (they are shown upright), else 1.
        seed: of the draws.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        UserError: an unknown name.
    """
    from matplotlib.figure import Figure

    image = image.reshape(*mask.shape, -1)
    cells = {"the slice": [(image, mask)]}
    cells |= {name: _draws(name, image, mask, mirror_axis, seed) for name in names}
    rows = math.ceil(len(cells) / CELLS_PER_ROW)
    width = CELLS_PER_ROW * DRAWS
    figure = Figure(figsize=(width * TILE_INCHES, rows * (TILE_INCHES + 0.3)), dpi=DPI)
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.97, wspace=0.03, hspace=0.2)
    axes = figure.subplots(rows, width, squeeze=False).reshape(-1, DRAWS)
    for ax in axes.flat:
        ax.set_axis_off()
    for cell, (name, pairs) in zip(axes, cells.items(), strict=False):
        cell[0].set_title(name, loc="left", fontsize=9)
        for ax, pair in zip(cell, pairs, strict=False):
            _show(ax, *pair, upright=mirror_axis == 1)
    return _rgb(figure)


def _draws(
    name: str, image: np.ndarray, mask: np.ndarray, mirror_axis: int, seed: int
) -> list[Pair]:
    """Return the first draws that differ from the slice and from each other."""
    certain = {"p": 1.0} if "p" in AUGMENTATIONS[name].options.model_fields else {}
    augment = Augmenter(AUGMENTATIONS.build(name, certain, mirror_axis), seed)
    seen = [image]
    drawn: list[Pair] = []
    for key in range(TRIES):
        images, masks = augment(image[None], mask[None], [key])
        if not any(np.array_equal(images[0], other) for other in seen):
            seen.append(images[0])
            drawn.append((images[0], masks[0]))
        if len(drawn) == DRAWS:
            break
    return drawn or [(image, mask)]


def _show(ax: Axes, image: np.ndarray, mask: np.ndarray, *, upright: bool) -> None:
    grey = radiological(image[..., image.shape[2] // 2], upright)
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    if mask.any():
        outline = radiological(mask, upright)
        ax.contour(outline, levels=[0.5], colors=[unit(ORANGE)], linewidths=0.9)


def _rgb(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=DPI)
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    rgba = np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)
    return rgba[..., :3].copy()
