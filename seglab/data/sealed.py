"""Takes the test patients out of reach: neither their images nor their masks can be read."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from seglab.data.cache import Cache, CachedPatient
from seglab.data.splits import Split

UInt8 = NDArray[np.uint8]


class SealBroken(RuntimeError):
    """Something asked for the pixels of a test patient."""


class GuardedRows:
    """Rows of an array; to read one of a test patient raises."""

    def __init__(self, rows: UInt8, sealed: NDArray[np.bool_]) -> None:
        self._rows, self._sealed = rows, sealed
        self.shape, self.dtype = rows.shape, rows.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> UInt8:
        if np.any(self._sealed[key[0] if isinstance(key, tuple) else key]):
            raise SealBroken("a slice of a test patient was asked for")
        return np.asarray(self._rows[key])


class SealedCache(Cache):
    """A cache whose test patients are not in ``by_id``, and whose rows refuse to be read."""

    def __init__(self, cache: Cache, split: Split) -> None:
        vars(self).update(vars(cache))
        self._test = test = frozenset(split.test)
        numbers = [i for i, patient in enumerate(cache.patients) if patient.patient_id in test]
        sealed = np.isin(cache.row_patient, numbers)
        self.by_id = {name: found for name, found in cache.by_id.items() if name not in test}
        self.images = tuple(cast("UInt8", GuardedRows(image, sealed)) for image in cache.images)
        self.masks_packed = cast("UInt8", GuardedRows(cache.masks_packed, sealed))
        self.further = tuple(SealedCache(one, split) for one in cache.further)

    def _boxed_mask(
        self, patient: CachedPatient, target: str, start: int = 0, stop: int | None = None
    ) -> UInt8:
        if patient.patient_id in self._test:
            raise SealBroken(f"the mask of test patient {patient.patient_id} was asked for")
        return super()._boxed_mask(patient, target, start, stop)
