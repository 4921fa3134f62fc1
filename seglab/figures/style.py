"""Colours and figure set-up shared by all pictures; safe for colour-blind readers.

Palette: Okabe & Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RGB = tuple[int, int, int]
UInt8 = NDArray[np.uint8]

BLACK: Final[RGB] = (0, 0, 0)
ORANGE: Final[RGB] = (230, 159, 0)
SKY_BLUE: Final[RGB] = (86, 180, 233)
GREEN: Final[RGB] = (0, 158, 115)
YELLOW: Final[RGB] = (240, 228, 66)
BLUE: Final[RGB] = (0, 114, 178)
VERMILLION: Final[RGB] = (213, 94, 0)
PURPLE: Final[RGB] = (204, 121, 167)
GREY: Final[RGB] = (110, 110, 110)

AGREEMENT: Final = GREEN
MISSED: Final = SKY_BLUE
FALSE_ALARM: Final = VERMILLION
FILL_OPACITY: Final = 0.5


def unit(colour: RGB) -> tuple[float, float, float]:
    """Convert 0..255 RGB to Matplotlib's 0..1."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def plain(text: str) -> str:
    """Keep Matplotlib from reading dollar signs in a name as mathematics."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of ``width`` × ``height`` inches without Matplotlib's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def tidy(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Label ``axes``, drop the box and add a light grid behind the data."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def log_axis(axes: Axes) -> None:
    """Make the x axis logarithmic with plain numbers, also within one decade."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(5))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def marked(figure: Figure, notice: str) -> Figure:
    """Write ``notice``, which may be empty, below everything else."""
    if notice:
        figure.supxlabel(notice, color=unit(VERMILLION), fontsize=9)
    return figure


def overlay_legend(figure: Figure, side: str, title: str = "") -> None:
    """Say above a black figure what the colours of its overlays mean; center or left."""
    from matplotlib.patches import Patch

    meanings = (
        ("agreement (outline)", AGREEMENT, 0.0),
        ("missed: truth only", MISSED, FILL_OPACITY),
        ("false alarm: prediction only", FALSE_ALARM, FILL_OPACITY),
    )
    handles = [
        Patch(facecolor=(*unit(colour), fill), edgecolor=unit(colour), linewidth=1.8, label=text)
        for text, colour, fill in meanings
    ]
    text: dict[str, Any] = {"loc": f"outside upper {side}", "labelcolor": "white"}
    legend = figure.legend(handles=handles, ncols=3, frameon=False, fontsize=9, **text)
    legend.set_title(title)
    legend.get_title().set(color="white", fontsize=11, fontweight="bold")
    legend.set_alignment("left")
