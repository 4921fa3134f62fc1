"""What the index of a cache may say: read as data, believed only where it can be true."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from seglab.data.files import MAX_SIDE_PX, MAX_SLICES, MAX_VOXELS

IMAGES, MASKS, NATIVE_MASKS, SLICES = "images.bin", "masks.bin", "native_masks.bin", "slices.bin"

SLICE_ROW = np.dtype(
    [
        ("slice_index", "<i4"),
        ("tumour_px", "<i4"),
        ("brain_px", "<i4"),
        ("offset", "<f4"),
        ("step", "<f4"),
    ]
)
"""What is known of one slice; pixels are native, ``offset`` and ``step`` undo the quantisation."""

Count = Annotated[int, Field(ge=0, lt=2**48)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]
Length = Annotated[int, Field(ge=0, le=MAX_SIDE_PX)]
Place = Annotated[int, Field(ge=-MAX_SIDE_PX, le=MAX_SIDE_PX)]
Step = Annotated[float, Field(gt=0)]


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class FileEntry(_Said):
    """One file of arrays."""

    bytes: Count
    sha256: str


class PatientEntry(_Said):
    """One patient; the fields are those of ``CachedPatient``."""

    patient_id: str
    grade: str | None
    spacing_mm: tuple[Step, Step, Step] | None
    native_shape: tuple[Side, Side]
    stack_size: Count
    count: Annotated[int, Field(ge=1, le=MAX_SLICES)]
    first: Count
    box: tuple[Place, Place, Side, Side]
    tumour_box: tuple[Place, Place, Length, Length]
    tumour_offset: Count

    @model_validator(mode="after")
    def _can_be_held(self) -> PatientEntry:
        for height, width in (self.native_shape, self.box[2:], self.tumour_box[2:]):
            if self.count * height * width > MAX_VOXELS:
                raise ValueError(f"{self.count} slices of {height} x {width} are too many")
        return self


class Index(_Said):
    """All that a cache says of its files."""

    source: str
    upright: bool
    mirror_axis: Literal[0, 1]
    settings: dict[str, Any]
    skipped: list[tuple[str, str]]
    data_hash: str
    shape: tuple[Annotated[int, Field(ge=1, lt=2**32)], Side, Side]
    files: dict[Literal["images.bin", "masks.bin", "native_masks.bin", "slices.bin"], FileEntry]
    patients: list[PatientEntry]

    @model_validator(mode="after")
    def _adds_up(self) -> Index:
        count, height, width = self.shape
        sizes = {IMAGES: height * width, MASKS: height * -(-width // 8), SLICES: SLICE_ROW.itemsize}
        for name, size in sizes.items():
            found = self.files[name].bytes if name in self.files else 0
            if found != count * size:
                raise ValueError(f"{name} has {found} bytes for {count} slices of {size}")
        rows = 0
        for patient in self.patients:
            if patient.first != rows:
                raise ValueError(f"{patient.patient_id} does not follow the patient before")
            rows += patient.count
        if rows != count:
            raise ValueError(f"the patients have {rows} slices, the arrays {count}")
        return self
