"""The cache: every slice of a data set as packed, memory-mapped uint8, written once."""

from __future__ import annotations

from seglab.data.cache.geometry import Box, to_native
from seglab.data.cache.prepare import Prepared, prepare
from seglab.data.cache.settings import CacheSettings
from seglab.data.cache.store import Cache, CachedPatient, open_cache

__all__ = [
    "Box",
    "Cache",
    "CacheSettings",
    "CachedPatient",
    "Prepared",
    "open_cache",
    "prepare",
    "to_native",
]
