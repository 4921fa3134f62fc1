"""Inflating by isal, which takes a third of zlib's time; by zlib where it is not installed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, Any

igzip: Any
isal_zlib: Any
try:
    from isal import igzip, isal_zlib
except ImportError:  # a platform without a wheel
    igzip, isal_zlib = gzip, zlib


def inflate(packed: bytes, size: int) -> bytes:
    """Inflate a zlib stream to ``size`` bytes, and never more.

    Raises:
        OSError: it is damaged, or holds less.
    """
    try:
        values: bytes = isal_zlib.decompressobj().decompress(packed, size)
    except (isal_zlib.error, zlib.error) as error:
        raise OSError(f"a chunk is damaged: {error}") from error
    if len(values) != size:
        raise OSError(f"a chunk holds {len(values)} bytes of {size}")
    return values


def open_gzip(path: Path) -> IO[bytes]:
    """Open a gzipped file for reading."""
    file: IO[bytes] = igzip.open(path)
    return file
