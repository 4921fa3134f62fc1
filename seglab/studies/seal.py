"""The sealed test: the only way to the test patients, and the record of who went it.

Everywhere else the cache of a run is sealed (:mod:`seglab.data.sealed`).
``open_test`` is the one function of the package that hands out the test patients'
names and the way to their pixels; a test of the source holds that nothing but promotion
imports it and that no other code reads the test part of a split. The record is a tag of
the promotion run, written to the store before anything is handed out.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from seglab.core.errors import UserError
from seglab.data.cache import CachedPatient, open_cache
from seglab.data.sealed import SealBroken
from seglab.studies.data import StudyData
from seglab.tracking import RunInfo, RunLog, Store
from seglab.tracking.claims import holders, take

CONFIRMATORY, REASON, OPENED_AT = (
    "seglab.confirmatory",
    "seglab.reopen_reason",
    "seglab.test_opened_at",
)
PATIENTS = "seglab.test_patients"
"""A few digits for each patient of an opened test, by which another one knows them."""
_HASH_DIGITS, _PATIENT_DIGITS = 16, 8
_LONGEST_TAG = 5_000


@dataclass(frozen=True)
class OpenedTest:
    """The test part, opened and on record."""

    patients: tuple[str, ...]
    test_hash: str
    confirmatory: bool
    """Whether nobody had seen these patients' results before."""
    openings_before: int
    """Of this very test part."""
    seen_before: int
    """Patients of it who were in a test that was opened before."""

    def unseal(self, data: StudyData) -> StudyData:
        """Return the data of a run with the opened patients in reach.

        Raises:
            SealBroken: its test patients are others than those that were opened.
        """
        if _test_hash(data) != self.test_hash:
            raise SealBroken(f"split {data.split.hash} has another test part than was opened")
        sealed = data.cache
        opened = open_cache(sealed.path, sealed.modalities, sealed.target, dict(sealed.skipped))
        return replace(data, cache=opened)


def check_sealed(
    store: Store, data: StudyData, reopen: str | None, begun: RunInfo | None = None
) -> None:
    """Refuse early, before any work, what :func:`open_test` would refuse.

    Args:
        store: where the record is.
        data: whose split it is.
        reopen: the reason, where the test was opened before.
        begun: the promotion that is to be continued; that it opened the test is no reason.

    Raises:
        UserError: see :func:`open_test`.
    """
    others = [
        run
        for run in holders(store, _test_hash(data))
        if begun is None or run.run_id != begun.run_id
    ]
    _refuse_opened(others, data, reopen)


def open_test(store: Store, log: RunLog, data: StudyData, reopen: str | None) -> OpenedTest:
    """Open the test part for the run ``log``, once; put on record before it is handed out.

    The seal is of the patients, their slices and their truth: other settings of the
    cache, another fold or another source of the same volumes do not renew it. Another test
    part may be opened beside it; where the two share patients, it confirms nothing either.

    Args:
        store: where the record is.
        log: the open promotion run; one that opened the test and died keeps its opening.
        data: whose split it is.
        reopen: the reason, where the test was opened before.

    Raises:
        UserError: it was opened before and no reason is given, another promotion opens it
            now, or there is no test part, or no tumour in it.
    """
    name = _test_hash(data)
    if log.run_id not in {run.run_id for run in holders(store, name)}:
        # Tags go to the store before the claim does: whoever finds it open can read why.
        log.tags(
            {
                REASON: reopen,
                OPENED_AT: time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                PATIENTS: " ".join(sorted(_digests(data)))[:_LONGEST_TAG],
            }
        )
    before = take(store, log.run_id, name, lambda runs: _refuse_opened(runs, data, reopen))
    # An opening of this very test showed all of them, also one that is on record without names.
    seen = len(data.split.test) if before else _seen_before(store, log.run_id, data)
    log.tags({CONFIRMATORY: str(not seen).lower()})
    return OpenedTest(data.split.test, name, not seen, len(before), seen)


def _seen_before(store: Store, run_id: str, data: StudyData) -> int:
    """Count the test patients whose results another opening may have shown."""
    own = _digests(data)
    others = [run.tags.get(PATIENTS, "") for run in holders(store) if run.run_id != run_id]
    return len(own & {digest for text in others for digest in text.split()})


def _digests(data: StudyData) -> set[str]:
    return {_digest([_content(patient)])[:_PATIENT_DIGITS] for patient in _test_patients(data)}


def _refuse_opened(before: Sequence[RunInfo], data: StudyData, reopen: str | None) -> None:
    if reopen is not None and not reopen.strip():
        raise UserError("--reopen needs a reason that a reader will accept")
    if before and reopen is None:
        first = before[0]
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(first.start_time))
        raise UserError(
            f"the test part of split {data.split.hash} was opened on {when} by promotion "
            f'{first.run_id}; --reopen "reason" opens it again, and the result no longer '
            "confirms anything"
        )


def _test_hash(data: StudyData) -> str:
    """Name the test part by what is in it: patients, slices and truth.

    Raises:
        UserError: there is no test part, or no tumour in it.
    """
    patients = _test_patients(data)
    if not any(patient.tumour_px.any() for patient in patients):
        raise UserError(
            f"none of the {len(patients)} test patients has tumour: no Dice can be measured; "
            "another split.seed or more patients would have one"
        )
    return _digest([_content(patient) for patient in patients])[:_HASH_DIGITS]


def _test_patients(data: StudyData) -> list[CachedPatient]:
    if not data.split.test:
        raise UserError("split.fractions has no test share: there is nothing to promote on")
    by_id = {patient.patient_id: patient for patient in data.cache.patients}
    return [by_id[name] for name in data.split.test]


def _digest(content: list[list[object]]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _content(patient: CachedPatient) -> list[object]:
    return [
        patient.patient_id,
        list(patient.native_shape),
        patient.slice_indices.tolist(),
        patient.whole_px.tolist(),
    ]
