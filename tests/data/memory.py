"""A source whose volumes lie in memory, and which counts what is read of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from seglab.core.config import Data
from seglab.core.errors import UserError
from seglab.data import prepare as filling
from seglab.data.cache import Cache, CacheSettings
from seglab.data.names import NameMapping
from seglab.data.volume import Patient, Volume

CONTRAST = {"flair": 100.0, "t1": -20.0, "t1ce": 250.0, "t2": 60.0}
"""What a lesion adds to a brain of 200 ± 30 on each modality."""


def brain_labels(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Canonical labels of a lesion: enhancing rim (3) around a core (1), in oedema (2)."""
    stream = np.random.default_rng([seed, 1])
    z, y, x = np.indices(shape)
    cy, cx = shape[1] / 2 + stream.integers(-4, 5), shape[2] / 2 + stream.integers(-4, 5)
    away = np.hypot(y - cy, x - cx) + 40 * ((z < 2) | (z > shape[0] - 2))
    radius = stream.uniform(4, 7)
    inside = [away < radius / 3, away < radius / 1.5, away < radius]
    return np.select(inside, [1, 3, 2], 0).astype(np.uint8)


def brain_image(seed: int, labels: np.ndarray, contrast: float) -> np.ndarray:
    """An ellipse of noise with the lesion in it; the first slice is empty."""
    stream = np.random.default_rng([seed, 2, int(contrast) + 1000])
    _, height, width = labels.shape
    z, y, x = np.indices(labels.shape)
    brain = np.hypot((y - height / 2) / 1.2, x - width / 2) < 0.35 * min(height, width)
    brain &= z > 0
    image = np.zeros(labels.shape, np.float32)
    image[brain] = stream.normal(200, 30, brain.sum()) + contrast * (labels[brain] > 0)
    return np.maximum(image, brain.astype(np.float32))


@dataclass
class MemorySource:
    """Patients by name; ``broken`` holds (patient, modality) that cannot be read."""

    root: Path
    volumes: Mapping[str, Volume]
    broken: set[tuple[str, str]] = field(default_factory=set)
    reads: Counter[tuple[str, str]] = field(default_factory=Counter)
    name = "memory"
    modalities = ("flair", "t1", "t1ce", "t2")
    upright, mirror_axis = True, 1
    names = NameMapping()
    phantom = ()

    def patients(self) -> list[Patient]:
        """One file a modality, and one of labels; they exist, and are empty."""
        self.root.mkdir(parents=True, exist_ok=True)
        found = []
        for name, volume in self.volumes.items():
            paths = {m: self.root / f"{name}-{m}" for m in (*volume.modalities, "seg")}
            for path in paths.values():
                if not path.exists():
                    path.touch()
            images = {m: (paths[m],) for m in volume.modalities}
            found.append(Patient(name, images, (paths["seg"],), volume.grade))
        return found

    def read(
        self, patient: Patient, modalities: Sequence[str], *, with_labels: bool = True
    ) -> Volume:
        """Count what is read, and give it."""
        volume = self.volumes[patient.patient_id].of(modalities)
        for name in modalities:
            if (patient.patient_id, name) in self.broken:
                raise UserError(f"{patient.patient_id}-{name} cannot be read")
            self.reads[patient.patient_id, name] += 1
        self.reads[patient.patient_id, "labels"] += with_labels
        return volume if with_labels else replace(volume, labels=np.zeros_like(volume.labels))

    def missing_files(self) -> list[str]:
        """None."""
        return []


def memory_volume(
    name: str,
    seed: int,
    modalities: Sequence[str] = ("flair", "t1", "t1ce", "t2"),
    shape: tuple[int, int, int] = (6, 60, 60),
) -> Volume:
    """A small volume with its lesion."""
    labels = brain_labels(seed, shape)
    images = [brain_image(seed, labels, CONTRAST[modality]) for modality in modalities]
    return Volume(
        patient_id=name,
        images=np.stack(images),
        modalities=tuple(modalities),
        labels=labels,
        parts_known=True,
        slice_indices=np.arange(shape[0], dtype=np.int32),
        stack_size=shape[0],
        spacing_mm=(1.0, 1.0, 1.0),
        shared_scales=(True,) * len(modalities),
        grade="HGG" if seed % 2 else "LGG",
    )


def memory_source(root: Path, patients: int = 5, **more: object) -> MemorySource:
    """A source of so many small volumes with all modalities."""
    names = [f"P{number:03d}" for number in range(1, patients + 1)]
    volumes = {name: memory_volume(name, seed) for seed, name in enumerate(names)}
    return MemorySource(root, volumes, **more)  # type: ignore[arg-type]


def prepare(
    source: Any,
    settings: CacheSettings,
    root: Path,
    patients: Sequence[Patient] | None = None,
    **keys: Any,
) -> tuple[Cache, bool]:
    """Fill the cache of a source, of all its patients where none are given."""
    given = {"workers": 1, **asdict(settings), **keys}
    data = Data(source="brats-h5", root=source.root, cache=root, **given)
    return filling.prepare(source, data, source.patients() if patients is None else patients)
