"""Predictions of the same few patients by every arm, from the weights their runs logged."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seglab.core.config import RunConfig
from seglab.core.documents import parse_yaml
from seglab.core.study import build_run
from seglab.data.cache import Cache, CachedPatient, to_native
from seglab.figures.arm_sheet import SheetPatient, arm_sheet
from seglab.learning.checkpoint import load_weights
from seglab.learning.device import choose_compute
from seglab.learning.inference import Predictor
from seglab.learning.training import BEST
from seglab.models import build_model
from seglab.studies.children import Arm, Child
from seglab.studies.comparison import ComparedAblation
from seglab.studies.data import open_cache
from seglab.studies.report.document import Picture
from seglab.studies.report.pictures import picture
from seglab.tracking import Store, download

PATIENTS = 5
UInt8 = NDArray[np.uint8]


def sheet_picture(result: ComparedAblation, store: Store) -> Picture:
    """Draw five patients under every arm, on the slice with the most tumour.

    Raises:
        UserError: the data or a checkpoint cannot be had on this machine.
    """
    names = choose_patients(result)
    arms = list(result.ablation.arms)
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
        self._opened: dict[int, tuple[Predictor, Cache, RunConfig]] = {}

    def cache(self, patient_id: str) -> Cache:
        """The cache that the patient's network reads."""
        return self._open(self._child(patient_id))[1]

    def dice(self, patient_id: str) -> float:
        """Of the whole patient."""
        scores = self._child(patient_id).scores
        return next(s.dice for s in scores if s.patient_id == patient_id)

    def slice(self, patient_id: str, position: int) -> UInt8:
        """Predict one slice: (H, W) in {0, 1} on the native grid."""
        predictor, cache, config = self._open(self._child(patient_id))
        probability = predict_slice(predictor, cache, cache.by_id[patient_id], position)
        return (probability > config.evaluation.threshold).astype(np.uint8)

    def _child(self, patient_id: str) -> Child:
        return next(
            child
            for child in self.children
            if any(score.patient_id == patient_id for score in child.scores)
        )

    def _open(self, child: Child) -> tuple[Predictor, Cache, RunConfig]:
        if child.fold not in self._opened:
            self._opened[child.fold] = open_child(child, self.store)
        return self._opened[child.fold]


def open_child(child: Child, store: Store) -> tuple[Predictor, Cache, RunConfig]:
    """Build a finished run's network with its best weights, and open the data it saw."""
    with tempfile.TemporaryDirectory(prefix="seglab-") as name:
        folder = Path(name)
        download(store, child.run.run_id, folder, "config.yaml")
        text = (folder / "config.yaml").read_text(encoding="utf-8")
        config = build_run(parse_yaml(text, f"config.yaml of run {child.run.run_id}"))
        cache, _ = open_cache(config.data)
        download(store, child.run.run_id, folder, f"checkpoints/{BEST}")
        channels = 2 * config.data.context + 1
        height, width = (int(side) for side in cache.images.shape[1:])
        # The checkpoint holds every weight: those it started from need not be there.
        model = config.model.model_copy(update={"encoder_weights": "none"})
        network = build_model(
            model if "encoder_weights" in config.model.options else config.model,
            channels,
            (height, width),
        )
        load_weights(folder / "checkpoints" / BEST, network)
    compute = choose_compute(config.train.model_copy(update={"device": "auto"}))
    return Predictor(network.to(compute.device), compute, config.data.context), cache, config


def predict_slice(
    predictor: Predictor, cache: Cache, patient: CachedPatient, position: int
) -> NDArray[np.float32]:
    """Probability (H, W) of one slice of a patient on the native grid."""
    maps = np.zeros((1, *cache.images.shape[1:]), np.float32)
    rows = np.array([patient.first + position])
    for _, logits in predictor.logits(cache, rows):
        maps[0] = logits[0, 0].sigmoid().cpu().numpy()
    native: NDArray[np.float32] = to_native(maps, patient)[0]
    return native
