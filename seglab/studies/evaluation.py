"""External validation: a frozen model on another data set, where nothing is tuned.

Patients of the set on which the model was trained, validated or tested are refused: they are told
by their names, by the tables of both sets, and by volumes that are nearly the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seglab.core.blocks import validate
from seglab.core.config import Data, flatten
from seglab.core.documents import digest
from seglab.core.errors import UserError, as_warning, unknown_name
from seglab.core.machine import progress, tell
from seglab.data.cache import Cache, CachedPatient, open_cache
from seglab.data.duplicates import Fingerprint, duplicates, fingerprint
from seglab.data.names import SYNTHETIC, NameMapping
from seglab.data.open import SAME_VOLUME, fingerprints, select_patients
from seglab.data.prepare import some_names
from seglab.data.sources.base import Source, open_data_source
from seglab.data.splits import PARTS
from seglab.data.volume import Patient, Volume
from seglab.learning.bundle import CARD, ModelBundle
from seglab.studies.ensemble import model_name
from seglab.studies.frozen import FrozenResults, evaluate_patient, log_results, predict_patient
from seglab.studies.prediction import scan_warnings
from seglab.studies.report.model_card import update_model_cards
from seglab.studies.report.outcomes import external_sentence
from seglab.studies.report.page import log_report
from seglab.studies.report.tables import counted
from seglab.studies.resolve import find_file, find_model, open_model, open_trained_data, read_config
from seglab.tracking import tags
from seglab.tracking.artifacts import read_artifact
from seglab.tracking.run import start_run
from seglab.tracking.store import RunInfo, Store

SHARED = "shared"
"""In place of a name: all patients that the model was trained on."""


@dataclass(frozen=True)
class ExternalSet:
    """Another data set, read as the model's training slices lie."""

    bundle: ModelBundle
    source: Source
    patients: Mapping[str, Patient]
    lacking: Mapping[str, str]  # patients without the model's modalities → what they lack

    def read(self, name: str) -> Volume:
        """Read a patient; a UserError where that fails, or the mask does not tell the target."""
        card, source, patient = self.bundle.card, self.source, self.patients[name]
        beside = [one for one in patient.images if one == card.window]
        volume = source.read(patient, tuple(dict.fromkeys((*card.modalities, *beside))))
        if card.target != "whole" and not volume.parts_known:
            raise UserError(f"{name}: its mask does not tell the {card.target} of the tumour")
        return volume if card.upright == source.upright else volume.transposed()

    def prepare(self, name: str) -> tuple[Cache, CachedPatient]:
        """Read a patient as the model takes it."""
        prepared = self.bundle.prepare(self.read(name))
        return prepared, prepared.patient


@dataclass(frozen=True)
class Looked:
    """What is known of a volume before the model sees it."""

    fingerprint: Fingerprint
    slices: int
    tumour_px: int
    warnings: Sequence[str]


def evaluate(
    store: Store,
    name: str,
    data: Mapping[str, Any],
    *,
    leave_out: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Score a model on another data set; the run joins the experiment of the model.

    ``name`` is of a model as :func:`open_model` takes it; ``data`` has ``source``, ``root``,
    ``labels`` and ``persons`` of the set. ``leave_out`` names patients that are not scored, or
    :data:`SHARED`; ``overrides`` are for the paths of the model's own data on this machine.
    Returns the keys of ``evaluate --json``; ``left_out`` tells of each such patient why.

    Raises:
        UserError: no such model or set, a set without masks or without the model's modalities,
            or patients on whom the model was trained, validated or tested.
    """
    bundle = open_model(name, lambda: store)
    card = bundle.card
    if card.run_id is None:
        raise UserError(f"{name}: its {CARD} names no run: its training patients are not known")
    run = store.get_run(card.run_id)
    external = open_set(bundle, data)
    for given in leave_out:
        if given not in (SHARED, *external.patients):
            raise unknown_name("patient", given, (SHARED, *external.patients))
    wanted = [one for one in external.patients if one not in leave_out]
    training = open_training(store, run, overrides)
    shared = training.same_person(wanted, external.source.names)
    rest = [one for one in wanted if one not in shared]
    tell(f"reading {counted(len(rest), 'patient')}")
    looked = {one: look(external, one) for one in progress(rest, "reading", unit="patient")}
    shared |= training.same_volume([one.fingerprint for one in looked.values()])
    shared = {one: shared[one] for one in wanted if one in shared}
    if shared and SHARED not in leave_out:
        same = [b if b.startswith(f"{a} (") else f"{a} = {b}" for a, b in shared.items()]
        raise UserError(
            f"the model was trained, validated or tested on {len(shared)} of the {len(wanted)} "
            f"patients with {', '.join(card.modalities)} in {external.source.root}: "
            f"{some_names(same)}; --leave-out {SHARED} takes them out"
        )
    names = [one for one in wanted if one not in shared]
    if not names:
        raise UserError(f"--leave-out leaves no patient of {external.source.root} to score")
    if not any(looked[one].tumour_px for one in names):
        what = "tumour" if card.target == "whole" else f"{card.target} of a tumour"
        left = f"none of the {len(names)} patients left in {external.source.root}"
        raise UserError(f"{left} has a pixel of {what}: no Dice can be measured")
    warnings = [f"{one}: {text}" for one in names for text in looked[one].warnings]
    asked = dict.fromkeys((one for one in leave_out if one != SHARED), "asked for")
    left_out = {**external.lacking, **asked, **shared}
    scored = {one: looked[one] for one in names}
    return _log(store, run, external, name, scored, left_out, [*training.warnings, *warnings])


def open_set(bundle: ModelBundle, given: Mapping[str, Any]) -> ExternalSet:
    """List the patients of a set that have the model's modalities; no pixel is read."""
    modalities = {"modalities": bundle.card.modalities, "require": bundle.card.modalities}
    data = validate(Data, {**given, **modalities}, "data.")
    source = open_data_source(data)
    patients, lacking = select_patients(data, source)
    return ExternalSet(bundle, source, {one.patient_id: one for one in patients}, lacking)


def look(external: ExternalSet, name: str) -> Looked:
    """Read a patient once, for all that is decided before the model is run."""
    volume, card = external.read(name), external.bundle.card
    prepared = external.bundle.prepare(volume)
    truth, shown = prepared.native_mask(prepared.patient) > 0, volume.of(card.modalities)
    return Looked(
        fingerprint(name, prepared.native_image(prepared.patient), volume.slice_indices),
        slices=len(volume.slice_indices),
        tumour_px=int(truth.sum()),
        warnings=scan_warnings(card, shown, prepared, truth) if truth.any() else (),
    )


@dataclass(frozen=True)
class Training:
    """Patients of all parts of the split that a model was trained on."""

    patients: Sequence[str]
    names: NameMapping
    cache: Cache | None  # of the model's first modality; None where it cannot be had here
    warnings: Sequence[str]

    def same_person(self, others: Sequence[str], names: NameMapping) -> dict[str, str]:
        """Of ``others``, those who are patients here by their names → who, and what told so."""
        persons = {**self.names.persons, **names.persons}
        found: dict[str, str] = {}
        # A table of one of the sets must not hide what the names tell: both are asked.
        for listed in ({}, {**self.names.listed, **names.listed}):
            people = NameMapping(persons, listed=listed).people([*others, *self.patients])
            known = {people[name].name: name for name in self.patients}
            for name in others:
                if twin := known.get(people[name].name):
                    rule = "the same name" if name == twin else people[name].rule
                    found[name] = f"{twin} ({rule})"
        return found

    def same_volume(self, others: Sequence[Fingerprint]) -> dict[str, str]:
        """Of ``others``, none of whose names is here, those of nearly the same volume."""
        if self.cache is None:
            return {}
        new = {one.patient_id for one in others}
        pairs = [one.patients for one in duplicates([*fingerprints(self.cache), *others])]
        return {b: f"{a} ({SAME_VOLUME})" for a, b in pairs if a not in new and b in new}


def open_training(store: Store, run: RunInfo, overrides: Sequence[str] = ()) -> Training:
    """Find what a model was trained on, with its volumes where they are on this machine."""
    split = json.loads(read_artifact(store, run, "split.json"))
    patients = [name for part in PARTS for name in split[part]]
    config = read_config(store, run, overrides)
    names = NameMapping()
    try:
        names = open_data_source(config.data).names
        cache = open_cache(open_trained_data(run, config).cache.path, config.data.modalities[:1])
    except UserError as error:
        told = f"volumes are not compared with those of the training, only names: {error}"
        tell(f"warning: {told}")
        return Training(patients, names, None, [told])
    return Training(patients, names, cache, ())


def _log(
    store: Store,
    run: RunInfo,
    external: ExternalSet,
    name: str,
    looked: Mapping[str, Looked],
    left_out: Mapping[str, str],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Evaluate, as a run in the experiment of the model."""
    bundle, source = external.bundle, external.source
    card, compute = bundle.card, bundle.predictor.compute
    notice = card.notice or (SYNTHETIC if source.phantom else "")
    uri, members = name, "unknown" if card.members else None  # files do not name the runs
    if not find_file(name):
        logged, registered = find_model(store, name)
        uri = registered.uri if registered else f"runs:/{logged.run_id}"
        members = logged.tags.get(tags.ENSEMBLE, members)
    place, point = f"{source.name}:{source.root.name}", vars(card.point)
    data_hash = digest([one.fingerprint.digest for one in looked.values()])
    own_tags = {
        **{key: run.tags[key] for key in (tags.ARM, tags.SEED) if key in run.tags},
        tags.KIND: "evaluation",
        tags.EVALUATED_RUN: run.run_id,
        tags.ENSEMBLE: members,
        tags.OPERATING_POINT: json.dumps(point),
        tags.DATA_HASH: data_hash,
        tags.DEVICE: str(compute.device),
        tags.PRECISION: compute.precision,
        tags.SYNTHETIC: "true" if notice else None,
    }
    run_name = f"{model_name(run, len(card.members))} on {place}"
    with start_run(store, card.name, run_name, own_tags) as log:
        about = {"set": place, "model": uri, "run_id": run.run_id, "target": card.target}
        log.params(flatten({"evaluation": about, "operating_point": point}))
        slices = sum(one.slices for one in looked.values())
        profile = {"patients": len(looked), "slices": slices}
        log.dataset(source.name, data_hash, place, "external", profile)
        tell(f"evaluating {counted(len(looked), 'patient')}")
        named = progress(list(looked), "evaluating", unit="patient")
        patients = [evaluate_patient(bundle, *external.prepare(one)) for one in named]
        results = FrozenResults(patients, None, notice)
        told = {**about, "left_out": left_out, "warnings": warnings}
        title = f"{card.name}: patients of {place}"
        log_results(
            log,
            results,
            "external",
            told,
            lambda one: predict_patient(bundle, *external.prepare(one)),
            title,
        )
        log_report(log, card.name, external_sentence(store.get_run(log.run_id)))
    with as_warning("the model's card does not name this evaluation"):
        update_model_cards(store, run)
    figures = results.frozen.items()
    return {
        "run_id": log.run_id,
        "model_uri": uri,
        "patients": len(results.patients),
        **{f"external/{name}": figure.value for name, figure in figures},
        **{f"external/{name}_ci": [figure.low, figure.high] for name, figure in figures},
        "left_out": left_out,
        "warnings": warnings,
    }
