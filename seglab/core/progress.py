"""Progress bars: on stderr, and only where a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], description: str, total: int | None = None, unit: str = "it"
) -> Iterable[Item]:
    """Iterate over ``items`` with a bar that shows after a second, on a terminal only."""
    bar: Iterable[Item] = tqdm(
        items,
        desc=description,
        total=total,
        unit=unit,
        delay=1.0,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
    )
    return bar


def say(text: str) -> None:
    """Print on stdout, above whatever bar is being drawn."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
