"""Files for the readers of the real layouts, and what the readers make of them."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data.sources.base import open_source
from seglab.data.volume import Volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def save_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = LPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def read_only_patient(name: str, root: Path, *modalities: str) -> Volume:
    """Read the only patient of a source: FLAIR where no modality is given."""
    source = open_source(name, root)
    (patient,) = source.patients()
    return source.read(patient, modalities or ("flair",))


def assert_refused(name: str, root: Path, reason: str, file: str) -> None:
    """The only patient cannot be read, for a reason that names the file in one line."""
    with pytest.raises(UserError, match=reason) as refusal:
        read_only_patient(name, root)
    assert file in str(refusal.value)
    assert "\n" not in str(refusal.value)


def pipe(path: Path) -> None:
    """Put a named pipe, which a reader would wait for, in the place of a file."""
    path.unlink()
    os.mkfifo(path)
