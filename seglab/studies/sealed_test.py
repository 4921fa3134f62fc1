"""The sealed test: the only way to the test patients, and the record of it.

Everywhere else the cache of a run is sealed (:mod:`seglab.data.sealed`). ``open_test`` is the one
function that hands out the test patients' names and the way to their pixels. The record is kept
outside of the promotion's run and experiment (:mod:`seglab.tracking.openings`), and is written
before anything is handed out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seglab.core.errors import UserError
from seglab.core.machine import tell
from seglab.data.cache import Cache, CachedPatient, open_cache
from seglab.data.open import StudyData
from seglab.data.sealed import SealBroken
from seglab.tracking import tags
from seglab.tracking.openings import Opening, openings, record_opening, seen_before, seen_text
from seglab.tracking.run import RunLog
from seglab.tracking.store import Store

_HASH_DIGITS, _PATIENT_DIGITS = 16, 8


@dataclass(frozen=True)
class OpenedTest:
    """The test part, opened and on record."""

    patients: tuple[str, ...]
    test_hash: str
    confirmatory: bool
    """Whether no result of these patients had been seen before."""
    openings_before: int
    """Of this very test part."""
    seen_before: int
    """Patients of it who were in a test that was opened before."""

    def to_json(self) -> dict[str, Any]:
        """What is said of the opening beside its figures."""
        return {
            "confirmatory": self.confirmatory,
            "openings_before": self.openings_before,
            "patients_seen_before": self.seen_before,
        }

    def unseal(self, data: StudyData) -> Cache:
        """Return the cache of a run with the opened patients in reach.

        Raises:
            SealBroken: its test patients are others than those that were opened.
        """
        if _digest(_test_patients(data))[:_HASH_DIGITS] != self.test_hash:
            raise SealBroken(f"split {data.split.hash} has another test part than was opened")
        return _unsealed(data.cache)


def _unsealed(cache: Cache) -> Cache:
    opened = open_cache(cache.path, cache.modalities, cache.target, cache.require)
    opened.further = tuple(_unsealed(one) for one in cache.further)
    return opened


def check_sealed(
    store: Store, data: StudyData, reopen: str | None, own: str = ""
) -> Sequence[Opening]:
    """Refuse early, before any work, what :func:`open_test` would refuse.

    Returns the openings of this test part by other promotions than ``own``, oldest first.
    """
    test_hash = _digest(_test_patients(data))[:_HASH_DIGITS]
    if reopen is not None and not reopen.strip():
        raise UserError("--reopen needs a reason that a reader will accept")
    found = openings(store)
    before = [one for one in found if one.test_hash == test_hash and one.opened_by != own]
    if before and reopen is None:
        raise UserError(
            f"the test part of split {data.split.hash} was opened at {before[0].opened_at} by "
            f'promotion {before[0].opened_by}; --reopen "reason" opens it again, and the result '
            "then confirms nothing"
        )
    return before


def open_test(store: Store, log: RunLog, data: StudyData, reopen: str | None) -> OpenedTest:
    """Open the test for the promotion ``log``, once; put on record before it is handed out.

    The seal is of the patients, their slices and their truth: other settings of the
    cache, another fold or another source of the same volumes do not renew it. Another test
    part may be opened beside it; where the two share patients, it confirms nothing either.
    A promotion that opened the test and died keeps its opening.

    Raises:
        UserError: it was opened before and no reason is given, another promotion opens it
            now, or there is no test part, or no tumour in it.
    """
    before, own = check_sealed(store, data, reopen, log.run_id), _opening_of(data, log.run_id)
    if not any(one.opened_by == log.run_id for one in openings(store)):
        record_opening(store, own.test_hash, log.run_id, own.patients, reopen, len(before))
    # Read again: another promotion may have opened them at the same time.
    seen, _ = seen_before(openings(store), own)
    log.tags({tags.TEST_HASH: own.test_hash, tags.REOPEN_REASON: reopen})
    log.tags({tags.CONFIRMATORY: str(not seen).lower()})
    return OpenedTest(data.split.test, own.test_hash, not seen, len(before), seen)


def warn_of_seen(store: Store, data: StudyData, own: str) -> None:
    """Say before the test is opened that it will confirm nothing, and by which promotion."""
    if told := seen_text(store, openings(store), _opening_of(data, own)):
        tell(f"warning: {told}; this test will not be confirmatory")


def _opening_of(data: StudyData, promotion: str) -> Opening:
    """The opening that a promotion of this data would make."""
    patients = _test_patients(data)
    digests = frozenset(_digest([patient])[:_PATIENT_DIGITS] for patient in patients)
    return Opening(_digest(patients)[:_HASH_DIGITS], promotion, "", digests)


def _test_patients(data: StudyData) -> list[CachedPatient]:
    """The patients of the test part; a UserError where there are none, or no tumour in them."""
    if not data.split.test:
        raise UserError("split.fractions has no test share: there is nothing to promote on")
    by_id = {patient.patient_id: patient for patient in data.cache.patients}
    patients = [by_id[name] for name in data.split.test]
    if not any(patient.tumour_px.any() for patient in patients):
        raise UserError(
            f"none of the {len(patients)} test patients has tumour: no Dice can be measured; "
            "another split.seed or more patients would have one"
        )
    return patients


def _digest(patients: Sequence[CachedPatient]) -> str:
    """Hash of patients, their slices and their truth."""
    content = [
        [
            patient.patient_id,
            list(patient.native_shape),
            patient.slice_indices.tolist(),
            patient.slice_px.tolist(),
        ]
        for patient in patients
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
