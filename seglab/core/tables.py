"""CSV files from a stranger, row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from seglab.core.errors import UserError

MAX_BYTES = 2**24
"""Three times the list of all 57,195 slices of BraTS 2020."""


def read_rows(path: Path, ending: str = "", *, strict: bool = False) -> Iterator[dict[str, str]]:
    """Yield each row by the names of the columns; blank lines are passed over.

    A short row lacks its last columns, what a row has beyond the header is dropped: rows
    filled up to a header of a million columns would fill the memory.

    Args:
        path: UTF-8, with or without a byte order mark.
        ending: a column must have a name that ends so.
        strict: refuse quotes in odd places.

    Raises:
        UserError: absent, not a file, too large, not UTF-8, not CSV, or without that column.
    """
    try:
        if not path.is_file() and path.exists():
            raise UserError(f"{path} is not a file")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES >> 20} MiB")
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=strict)
            header = next(rows, [])
            if not any(name.endswith(ending) for name in header):
                raise UserError(f"{path} has no column that ends in '{ending}'")
            yield from (dict(zip(header, row, strict=False)) for row in rows if row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
