"""Progress bars: on stderr, and only where a person is watching."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def progress(
    items: Iterable[Item],
    description: str,
    total: int | None = None,
    unit: str = "it",
    delay_s: float = 1.0,
) -> Iterable[Item]:
    """Iterate over ``items`` with a bar that shows after ``delay_s``, on a terminal only.

    ``TQDM_DISABLE`` in the environment silences it: processes that share a terminal set it.
    """
    if not sys.stderr.isatty() or "TQDM_DISABLE" in os.environ:
        return items
    from tqdm import tqdm

    bar: Iterable[Item] = tqdm(
        items,
        desc=description,
        total=total,
        unit=unit,
        delay=delay_s,
        file=sys.stderr,
        leave=False,
    )
    return bar


def say(text: str) -> None:
    """Print on stdout, above whatever bar is being drawn."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
