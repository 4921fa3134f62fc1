"""Data sources: what each folder of MRI files holds, in one common form."""

from __future__ import annotations

from seglab.data.sources.base import Patient, Source, Volume, open_source

__all__ = ["Patient", "Source", "Volume", "open_source"]
