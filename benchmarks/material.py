"""What the stages work on: phantoms made for the occasion, or a user's files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import phantoms
from seglab.core.config import RunConfig
from seglab.core.documents import merge, read_document
from seglab.core.study import STUDY_KEYS, build_run
from seglab.data.phantom import write_phantom
from seglab.data.sources import Source, open_source
from seglab.learning.device import Compute, choose_compute

TRACKING = "MLFLOW_TRACKING_URI"
BASELINE = Path(__file__).resolve().parents[1] / "experiments" / "baseline.yaml"


@dataclass(frozen=True)
class Scale:
    """How much work the stages get."""

    patients: int = 20
    """Of whom 14 train and 3 validate: the shares of a run on the whole data set."""
    size: int = 240
    slices: int = 36
    files: int = 3_000
    """Slice files of the stages that fill a cache."""
    volumes: int = 120
    """NIfTI volumes, likewise."""
    samples: int = 480
    """Slices of the stages that make batches."""
    thin_slices: int = 16
    """Slices a patient where the reference is slow."""
    few_samples: int = 224
    """Slices of such an epoch: all that 14 patients have."""
    fewer_patients: int = 13
    """Of the stage at full size: 9 train and 2 validate."""
    fewer_samples: int = 144
    """Slices of its epoch: all that 9 patients have."""
    rounds: int = 3
    arms: int = 20
    cohort: int = 300
    """Patients of a report."""
    resamples: int = 10_000
    full_set: int = 57_195
    """Slices of BraTS 2020."""


@dataclass
class Material:
    """A scratch folder with everything that stages ask for, made once and on demand.

    Args:
        device: to measure on.
        data: a user's files; None makes phantoms.
        source: which source reads them.
        scale: how much work.
    """

    device: str = "cpu"
    data: Path | None = None
    source: str = "brats-h5"
    scale: Scale = field(default_factory=Scale)

    def __enter__(self) -> Material:
        self.scratch = Path(tempfile.mkdtemp(prefix="seglab-bench-"))
        # Runs are logged here, whatever server the environment names.
        self._tracking = os.environ.get(TRACKING)
        os.environ[TRACKING] = f"sqlite:///{self.scratch}/mlruns/mlflow.db"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tracking is None:
            del os.environ[TRACKING]
        else:
            os.environ[TRACKING] = self._tracking
        shutil.rmtree(self.scratch, ignore_errors=True)

    @property
    def description(self) -> str:
        """One line about the data."""
        scale = self.scale
        made = f"{scale.patients} phantom patients of {scale.slices} slices, {scale.size}²"
        return made if self.data is None else f"{self.data} ({self.source}), else {made}"

    @cached_property
    def phantoms(self) -> Path:
        """Folder of phantom patients in the Kaggle layout."""
        out, scale = self.scratch / "phantoms", self.scale
        write_phantom(out, patients=scale.patients, size=scale.size, slices=scale.slices)
        return out

    @cached_property
    def thin_phantoms(self) -> Path:
        """As many phantoms of few slices, for what is slow."""
        out, scale = self.scratch / "thin", self.scale
        write_phantom(out, patients=scale.patients, size=scale.size, slices=scale.thin_slices)
        return out

    @property
    def has_slice_files(self) -> bool:
        """Whether the user's files are h5 slices."""
        return self.data is not None and self.source == "brats-h5"

    @cached_property
    def slice_files(self) -> Source:
        """Patients as h5 slice files: the user's if they are such, else phantoms."""
        own = self.data if self.has_slice_files else None
        return open_source("brats-h5", own or self.phantoms)

    @cached_property
    def many_slice_files(self) -> Source:
        """As ``slice_files``; phantoms are repeated under other names up to ``scale.files``."""
        if self.has_slice_files:
            return self.slice_files
        root = self.scratch / "repeated"
        phantoms.repeat_slices(self.phantoms, root, self.scale.files)
        return open_source("brats-h5", root)

    @cached_property
    def volumes(self) -> Source:
        """Patients as NIfTI volumes: the user's if they are such, else phantoms."""
        if self.data is not None and self.source == "brats-nifti":
            return open_source(self.source, self.data)
        root = self.scratch / "volumes"
        phantoms.write_volumes(root, self.scale.volumes, self.scale.size)
        return open_source("brats-nifti", root)

    def config(self, *overrides: Mapping[str, Any]) -> RunConfig:
        """``experiments/baseline.yaml`` on this data and device, with ``overrides`` on top."""
        document = {k: v for k, v in read_document(BASELINE).items() if k not in STUDY_KEYS}
        here = {
            "name": "bench",
            "data": {
                "source": "brats-h5" if self.data is None else self.source,
                "root": str(self.data or self.phantoms),
                "cache": str(self.scratch / "cache"),
                "patients": self.scale.patients,
            },
            "train": {"device": self.device, "samples_per_epoch": self.scale.samples},
        }
        for layer in (here, *overrides):
            document = merge(document, layer)
        return build_run(document)

    @cached_property
    def compute(self) -> Compute:
        """Device, precision and threads as a run chooses them."""
        return choose_compute(self.config().train)
