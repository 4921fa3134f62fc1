"""The cache: every slice of a data set as packed, memory-mapped uint8, written once."""

from __future__ import annotations

from seglab.data.cache.build import Prepared, prepare
from seglab.data.cache.geometry import Box, to_native
from seglab.data.cache.patient import SingleVolume
from seglab.data.cache.store import Cache, CachedPatient, CacheSettings, open_cache

__all__ = [
    "Box",
    "Cache",
    "CacheSettings",
    "CachedPatient",
    "Prepared",
    "SingleVolume",
    "open_cache",
    "prepare",
    "to_native",
]
