"""Scans to predict: found, read, and their masks written back in kind."""

from __future__ import annotations

from seglab.data.scans.base import Pixels, Scan, check_image
from seglab.data.scans.find import find_scans

__all__ = ["Pixels", "Scan", "check_image", "find_scans"]
