"""What a worker has at hand for every trial, and the run that a trial is tied to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from seglab.core.config import RunConfig
from seglab.core.search import Search
from seglab.studies.candidates import TRIAL
from seglab.studies.data import StudyData
from seglab.studies.search.ledger import RUN, Claim, Ledger
from seglab.studies.search.notes import note_trial
from seglab.tracking import RunInfo, Store


@dataclass(frozen=True)
class Workbench:
    """What a worker has at hand for every trial."""

    ledger: Ledger
    store: Store
    parent_run_id: str
    open_data: Callable[[RunConfig], StudyData]
    stopping: Callable[[], bool]

    @property
    def search(self) -> Search:
        """The search block of the file."""
        return self.ledger.search


def latest_run(claim: Claim, workbench: Workbench) -> RunInfo | None:
    """Return the newest run of a trial, if it has one."""
    runs = workbench.store.find_runs(
        workbench.ledger.space.base.name,
        {TRIAL: str(claim.trial.number)},
        parent_run_id=workbench.parent_run_id,
    )
    return runs[0] if runs else None


def name_run(claim: Claim, workbench: Workbench, run_id: str) -> None:
    """Tie the trial to its run, once."""
    trial = claim.trial
    if trial.user_attrs.get(RUN) != run_id:
        trial.set_user_attr(RUN, run_id)
        run = workbench.store.get_run(run_id)
        note_trial(workbench.ledger.study, trial._trial_id, workbench.store, run)
