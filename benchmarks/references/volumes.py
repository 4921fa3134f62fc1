"""NIfTI volumes, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib


def load_all(paths: Sequence[Path]) -> None:
    """Load the voxels of every volume, as nibabel's manual shows it."""
    for path in paths:
        nib.load(path).get_fdata()
