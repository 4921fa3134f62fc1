"""One channel at a time, for callers that do not ask for modalities; to be deleted with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

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
    def keeps_volume_scale(self) -> bool:
        """Whether every volume has one intensity scale."""
        return self.name != "brats-h5"
