"""From cached slices to probabilities on the native grid, and their scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seglab.core.machine import progress
from seglab.data.cache import Cache, CachedPatient
from seglab.data.geometry import to_native
from seglab.data.loader import Rows, gather, patient_rows
from seglab.evaluation.metrics import Case, PatientScore, score_patient
from seglab.learning.batches import prefetch
from seglab.learning.device import Compute
from seglab.losses import Loss
from seglab.models.build import Ensemble

Float32 = NDArray[np.float32]


class Mirrored(nn.Module):
    """Averages logits over the image and its mirror image along ``axis`` (0 rows, 1 columns)."""

    def __init__(self, network: nn.Module, axis: int) -> None:
        super().__init__()
        self.network = network
        self.dimension = 2 + axis

    def forward(self, image: Tensor) -> Tensor:
        """Image (B,C,H,W) to logits (B,1,H,W)."""
        mirrored: Tensor = self.network(image.flip(self.dimension))
        direct: Tensor = self.network(image)
        return (direct + mirrored.flip(self.dimension)) / 2


def mirrored(network: nn.Module, axis: int | None) -> nn.Module:
    """Average a network, or each of an ensemble's, over the mirror image; None has none."""
    if axis is None:
        return network
    if isinstance(network, Ensemble):
        return Ensemble(Mirrored(one, axis) for one in network.members)
    return Mirrored(network, axis)


@dataclass(frozen=True)
class Predictor:
    """A network with what is needed to run it on cached slices."""

    network: nn.Module
    compute: Compute
    context: int
    batch_size: int = 32
    mirror: bool = False  # whether logits are averaged over the left–right mirror image

    @property
    def fills_batches(self) -> bool:
        """Whether a smaller batch is filled up by repeating its slices.

        cuDNN tries its algorithms anew for every size, which takes longer than the slices more.
        """
        return self.compute.device.type == "cuda"

    def logits(self, cache: Cache, rows: Rows) -> Iterator[tuple[Rows, Tensor]]:
        """Yield rows and their logits (B,1,h,w) float32 at cache scale, batch by batch."""
        network = mirrored(self.network, cache.flip_axis) if self.mirror else self.network
        network.eval()
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            shown = np.resize(part, self.batch_size) if self.fills_batches else part
            images = self.compute.images(gather(cache, shown, self.context))
            with torch.inference_mode(), self.compute.autocast():
                logits = network(images)[: len(part)]
            yield part, logits.float()

    def maps(
        self, cache: Cache, patient: CachedPatient, loss: Loss | None = None
    ) -> tuple[Float32, float | None]:
        """Predict a patient: probabilities (S, h, w) at cache scale, and the loss if one is given.

        Slices without brain are not shown to the network. The loss is computed once over the rest:
        losses that pool pixels then pool them as val/dice does.
        """
        rows = brain_rows(cache, patient)
        maps = np.zeros((patient.count, *cache.shape), np.float32)
        if len(rows) == 0:
            return maps, None
        logits = torch.cat([part for _, part in self.logits(cache, rows)])
        maps[rows - patient.first] = torch.sigmoid(logits[:, 0]).cpu().numpy()
        if loss is None:
            return maps, None
        return maps, float(loss(logits, self.compute.masks(cache.masks(rows))))

    def native(self, cache: Cache, patient: CachedPatient) -> Float32:
        """Predict a patient: probabilities (S, H, W) float32 on the native grid."""
        return self.with_disagreement(cache, patient)[0]

    def with_disagreement(
        self, cache: Cache, patient: CachedPatient
    ) -> tuple[Float32, Float32 | None]:
        """Predict a patient; also the SD (S, H, W) of an ensemble's probabilities, 0 to 0.5.

        Probabilities are averaged over the planes of the cache; so are those of each member.
        """
        planes = cache.in_planes(patient)
        if not isinstance(self.network, Ensemble):
            return average([(one, self.maps(view, one)[0]) for view, one in planes]), None
        members = [replace(self, network=one) for one in self.network.members]
        maps = [np.stack([each.maps(view, one)[0] for each in members]) for view, one in planes]
        owners = [one for _, one in planes]
        mean = average([(one, each.mean(axis=0)) for one, each in zip(owners, maps, strict=True)])
        if len(planes) == 1:
            return mean, to_native(maps[0].std(axis=0), patient)
        native = [average(list(zip(owners, of, strict=True))) for of in zip(*maps, strict=True)]
        return mean, np.std(native, axis=0)


def average(maps: Sequence[tuple[CachedPatient, Float32]]) -> Float32:
    """Average one patient's maps (n, h, w) of several planes on the native grid (S, H, W)."""
    first, *others = (to_native(each, patient) for patient, each in maps)
    for other in others:
        first += other
    return first / np.float32(len(maps)) if others else first


def brain_rows(cache: Cache, patient: CachedPatient) -> Rows:
    """Rows of the patient's slices that show any brain."""
    rows = patient_rows(patient)
    return np.asarray(rows[cache.row_brain_px[rows] > 0])


def score(
    cache: Cache, patient: CachedPatient, mask: NDArray[np.bool_], *, surface: bool = True
) -> PatientScore:
    """Score a patient's native mask (S, H, W) against the native truth."""
    return score_patient(
        patient.patient_id,
        mask,
        cache.native_mask(patient),
        patient.spacing_mm,
        contiguous=patient.contiguous,
        grade=patient.grade,
        surface=surface,
    )


def validate(
    predictor: Predictor,
    cache: Cache,
    patients: Iterable[str],
    threshold: float,
    *,
    loss: Loss | None = None,
    surface: bool = True,
) -> tuple[list[PatientScore], float]:
    """Score every patient named, in that order; threads score while the next is predicted.

    Returns a score a patient, and the loss averaged over patients with brain and their planes; 0
    without one.
    """
    losses: list[float] = []

    def predicted() -> Iterator[list[tuple[CachedPatient, Float32]]]:
        for name in progress(patients, "validation", unit="patient"):
            found = []
            for view, patient in cache.in_planes(cache.by_id[name]):
                maps, value = predictor.maps(view, patient, loss)
                losses.extend([] if value is None else [value])
                found.append((patient, maps))
            yield found

    def scored(maps: list[tuple[CachedPatient, Float32]]) -> PatientScore:
        return score(cache, maps[0][0], average(maps) > threshold, surface=surface)

    scores = list(prefetch(scored, predicted(), predictor.compute.threads))
    return scores, sum(losses) / max(len(losses), 1)


def build_case(
    cache: Cache,
    patient: CachedPatient,
    probability: Float32,
    mask: NDArray[np.bool_],
    disagreement: Float32 | None = None,
    known: PatientScore | None = None,
) -> Case:
    """Keep all of a predicted patient (S, H, W) that a picture or a failure analysis needs.

    It is scored unless its score is ``known``.
    """
    doubt = None if disagreement is None else np.rint(disagreement * 510).astype(np.uint8)
    return Case(
        disagreement=doubt,
        patient_id=patient.patient_id,
        image=cache.native_image(patient),
        truth=cache.native_mask(patient),
        probability=np.rint(probability * 255).astype(np.uint8),
        prediction=mask.astype(np.uint8),
        slice_indices=patient.slice_indices,
        spacing_mm=patient.spacing_mm,
        upright=cache.upright,
        score=known or score(cache, patient, mask),
        modality=cache.modalities[0],
    )
