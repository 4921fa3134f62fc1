"""Predictions of the same few patients by every arm, from the weights their runs logged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seglab.data.cache import Cache, CachedPatient
from seglab.data.geometry import to_native
from seglab.figures.arm_sheet import SheetPatient, arm_sheet
from seglab.learning.inference import Predictor
from seglab.studies.comparison import OTHER_TARGET, ComparedAblation
from seglab.studies.report.document import Picture
from seglab.studies.report.pictures import picture
from seglab.studies.resolve import TrainedRun, load_trained
from seglab.studies.results import Arm, Child
from seglab.tracking import Store

PATIENTS = 5
UInt8 = NDArray[np.uint8]


def sheet_picture(result: ComparedAblation, store: Store) -> Picture:
    """Draw five patients under every arm, on the slice with the most tumour.

    Raises:
        UserError: the data or a checkpoint cannot be had on this machine.
    """
    names = choose_patients(result)
    arms = [a for a in result.ablation.arms if result.verdicts.get(a.name) != OTHER_TARGET]
    drawn = {arm.name: _ArmPredictions(arm, store) for arm in arms}
    first = drawn[arms[0].name].cache(names[0])
    columns = []
    for name in names:
        patient = first.by_id[name]
        position = int(np.argmax(patient.tumour_px))
        score = result.patients[name]
        columns.append(
            SheetPatient(
                patient_id=name,
                caption=f"slice {patient.slice_indices[position]}",
                image=first.native_image(patient)[position],
                truth=first.native_mask(patient)[position],
                predictions=[drawn[arm.name].slice(name, position) for arm in arms],
                labels=[f"Dice {drawn[arm.name].dice(score.patient_id):.3f}" for arm in arms],
            )
        )
    caption = (
        "From the patient with the lowest to the one with the highest Dice averaged over arms, by "
        "the run of the first seed. Figures are of the whole patient, not of the slice."
    )
    figure = arm_sheet(columns, [arm.name for arm in arms], first.upright)
    return picture("sheet", figure, "Five patients segmented by every arm", caption)


def choose_patients(result: ComparedAblation) -> list[str]:
    """Name up to five patients, evenly spaced in the ranking of their Dice over all arms."""
    means = {
        name: float(np.mean([dice[name] for dice in result.dice.values()]))
        for name in result.patients
    }
    ranked = sorted(means, key=lambda name: (means[name], name))
    places = np.linspace(0, len(ranked) - 1, min(PATIENTS, len(ranked)))
    return [ranked[int(place)] for place in np.rint(places)]


class _ArmPredictions:
    """The networks of one arm's first seed, each opened when one of its patients is asked for."""

    def __init__(self, arm: Arm, store: Store) -> None:
        self.store = store
        self.children = [child for child in arm.children if child.seed == arm.seeds[0]]
        self._opened: dict[int, TrainedRun] = {}

    def cache(self, patient_id: str) -> Cache:
        """The cache that the patient's network reads."""
        return self._open(self._child(patient_id)).data.cache

    def dice(self, patient_id: str) -> float:
        """Of the whole patient."""
        scores = self._child(patient_id).scores
        return next(s.dice for s in scores if s.patient_id == patient_id)

    def slice(self, patient_id: str, position: int) -> UInt8:
        """Predict one slice: (H, W) in {0, 1} on the native grid."""
        trained = self._open(self._child(patient_id))
        cache = trained.data.cache
        probability = predict_slice(trained.predictor, cache, cache.by_id[patient_id], position)
        return (probability > trained.config.evaluation.threshold).astype(np.uint8)

    def _child(self, patient_id: str) -> Child:
        return next(
            child
            for child in self.children
            if any(score.patient_id == patient_id for score in child.scores)
        )

    def _open(self, child: Child) -> TrainedRun:
        if child.fold not in self._opened:
            # The machine that writes the report need not have the device that trained.
            device = ["train.device=auto"]
            self._opened[child.fold] = load_trained(self.store, child.run, device)
        return self._opened[child.fold]


def predict_slice(
    predictor: Predictor, cache: Cache, patient: CachedPatient, position: int
) -> NDArray[np.float32]:
    """Probability (H, W) of one slice of a patient on the native grid."""
    maps = np.zeros((1, *cache.shape), np.float32)
    rows = np.array([patient.first + position])
    for _, logits in predictor.logits(cache, rows):
        maps[0] = logits[0, 0].sigmoid().cpu().numpy()
    native: NDArray[np.float32] = to_native(maps, patient)[0]
    return native
