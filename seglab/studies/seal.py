"""The sealed test: the only way to the test patients, and the record of who went it.

Everywhere else the cache of a run is sealed (:mod:`seglab.data.sealed`).
``open_test`` is the one function of the package that hands out the test patients'
names and the way to their pixels. The record is kept outside of the promotion's run and
experiment (:mod:`seglab.tracking.openings`), and is written before anything is handed out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from seglab.core.errors import UserError
from seglab.data.cache import CachedPatient, open_cache
from seglab.data.sealed import SealBroken
from seglab.studies.data import StudyData
from seglab.tracking import RunInfo, RunLog, Store, tags
from seglab.tracking.openings import Opening, openings, record_opening

CONFIRMATORY, REASON = tags.CONFIRMATORY, tags.REOPEN_REASON
_HASH_DIGITS, _PATIENT_DIGITS = 16, 8


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
        opened = open_cache(sealed.path, sealed.modalities, sealed.target, sealed.require)
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
    own = "" if begun is None else begun.run_id
    _refuse_opened(_of(_test_hash(data), openings(store), own), data, reopen)


def _of(test_hash: str, found: Sequence[Opening], own: str) -> list[Opening]:
    """Openings of one test part by other promotions than ``own``."""
    return [one for one in found if one.test_hash == test_hash and one.opened_by != own]


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
    name, digests = _test_hash(data), _digests(data)
    found = openings(store)
    before = _of(name, found, log.run_id)
    _refuse_opened(before, data, reopen)
    if not any(one.opened_by == log.run_id for one in found):
        record_opening(store, name, log.run_id, digests, reopen)
    # An opening of this very test showed all of them, also one that is on record without names.
    others = [one.patients for one in found if one.opened_by != log.run_id]
    seen = len(digests if before else digests & frozenset().union(*others))
    log.tags({tags.TEST_HASH: name, REASON: reopen, CONFIRMATORY: str(not seen).lower()})
    return OpenedTest(data.split.test, name, not seen, len(before), seen)


def _digests(data: StudyData) -> set[str]:
    return {_digest([_content(patient)])[:_PATIENT_DIGITS] for patient in _test_patients(data)}


def _refuse_opened(before: Sequence[Opening], data: StudyData, reopen: str | None) -> None:
    if reopen is not None and not reopen.strip():
        raise UserError("--reopen needs a reason that a reader will accept")
    if before and reopen is None:
        first = before[0]
        raise UserError(
            f"the test part of split {data.split.hash} was opened at {first.opened_at} by "
            f'promotion {first.opened_by}; --reopen "reason" opens it again, and the result then '
            "confirms nothing"
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
