"""One channel at a time, for callers that do not ask for modalities; to be deleted with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from seglab.data.volume import Patient, Volume

NAMES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}


class OneChannel:
    """What a source offered before it served modalities."""

    name: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]]
    modality: str = "flair"
    """The one that is read."""

    def list_patients(self, *, strict: bool) -> list[Patient]:  # noqa: D102
        raise NotImplementedError

    def read(  # noqa: D102
        self, patient: Patient, modalities: Sequence[str] = ("flair",), *, with_labels: bool = True
    ) -> Volume:
        raise NotImplementedError

    @property
    def channel(self) -> int:
        """Place of the modality that is read."""
        return self.modalities.index(self.modality)

    @property
    def default_channel(self) -> int:
        """Place of FLAIR."""
        return self.modalities.index("flair")

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Of all modalities."""
        return tuple(NAMES[modality] for modality in self.modalities)

    @property
    def plane_names(self) -> tuple[str, ...]:
        """Of the label that each plane of ``read_channels`` marks."""
        names = ("necrosis", "oedema", "enhancing", "tumour")
        return {"lgg-tif": names[3:], "brats-h5": names[:3]}.get(self.name, names)

    @property
    def keeps_volume_scale(self) -> bool:
        """Whether every volume has one intensity scale."""
        return self.name != "brats-h5"

    def read_channels(
        self, part: Patient | Path
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int32]]:
        """Images (C, S, H, W), NaN where absent, masks (P, S, H, W), and slice indices (S,)."""
        if isinstance(part, Path):
            owner = next(p for p in self.list_patients(strict=True) if part in p.files)
            part = next(piece for piece in pieces(owner) if part in piece.files)
        there = [modality for modality in self.modalities if modality in part.images]
        volume = self.read(part, there)
        image = np.full((len(self.modalities), *volume.labels.shape), np.nan, np.float32)
        image[[self.modalities.index(modality) for modality in there]] = volume.images
        parts = {"lgg-tif": (4,), "brats-h5": (1, 2, 3)}.get(self.name, (1, 2, 3, 4))
        planes = np.stack([volume.labels == label for label in parts]).astype(np.uint8)
        return image, planes, volume.slice_indices


def pieces(patient: Patient) -> list[Patient]:
    """The parts that can be read by themselves: slices, or the whole of a NIfTI patient."""
    stacks = list(patient.images.values())
    if not stacks or not stacks[0][0].name.lower().endswith((".h5", ".tif")):
        return [patient]
    return [
        replace(patient, images=dict.fromkeys(patient.images, (path,)), label_files=())
        for path in stacks[0]
    ]
