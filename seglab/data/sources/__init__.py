"""Data sources: what each folder of MRI files holds, in one common form."""

from __future__ import annotations

# Imported so that they register themselves under the names a configuration may use.
from seglab.data.sources import brats_h5, brats_nifti, lgg_tif
from seglab.data.sources.base import Source, open_data_source, open_source

__all__ = ["Source", "brats_h5", "brats_nifti", "lgg_tif", "open_data_source", "open_source"]
