"""How trials end: run and study say the same, whatever happened in between."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from seglab.core.errors import UserError
from seglab.studies.candidates import TRIAL
from seglab.studies.search import trial as trial_module
from seglab.studies.search.ledger import ERROR, requeue
from seglab.studies.search.runs import settle_runs
from seglab.studies.search.trial import do_trial
from seglab.studies.search.workbench import Workbench
from seglab.tracking import RunInfo, start_run
from seglab.tracking.failures import is_out_of_space
from seglab.tracking.run import PRUNED
from tests.faults.tmpfs import enlarge
from tests.studies.ledgers import states
from tests.studies.search_runs import assert_runs_equal_trials, claim_next, trials, workbench_of

Write = Callable[..., Path]


def run_of(workbench: Workbench, number: int) -> RunInfo:
    (run,) = workbench.store.find_runs("tiny", {TRIAL: str(number)})
    return run


def give_to_another(number: int = 0) -> None:
    """Do what another machine does with a trial whose machine is silent."""
    import optuna

    from tests.studies.search_runs import _open

    storage = _open(None)
    study = optuna.load_study(study_name="tiny", storage=storage.backend)
    storage.backend.set_trial_state_values(study.trials[number]._trial_id, TrialState.FAIL)
    requeue(study, study.trials[number])


def test_a_pruned_run_is_ended_by_whoever_settles_its_trial(write: Write) -> None:
    workbench = workbench_of(write())
    claim = claim_next(workbench)
    tags = {TRIAL: "0", "seglab.kind": "trial"}
    log = start_run(workbench.store, "tiny", "trial 000", tags, workbench.parent_run_id)
    log.tags({PRUNED: "2"})
    log._lock.release()  # killed before it could write the status
    assert do_trial(claim, workbench)
    run = run_of(workbench, 0)
    assert (run.status, run.tags[PRUNED]) == ("KILLED", "2")
    assert states(workbench.ledger) == ["PRUNED"]
    assert not workbench.store.state(run.run_id).exists()


def test_a_run_ends_as_its_trial_did(write: Write) -> None:
    """Whoever wrote the end of the one died before it wrote that of the other."""
    workbench = workbench_of(write(trials=3))
    for number, end in enumerate(["FINISHED", "RUNNING", "RUNNING"]):
        claim_next(workbench)
        tags = {TRIAL: str(number), "seglab.kind": "trial"}
        log = start_run(workbench.store, "tiny", f"trial {number}", tags, workbench.parent_run_id)
        if number:
            log.tags({PRUNED: "1"})
        if end == "FINISHED":
            log.finish()
        log._lock.release()
    give_to_another(0)
    give_to_another(1)
    workbench.ledger.storage.backend.set_trial_state_values(
        workbench.ledger.trials[2]._trial_id, TrialState.PRUNED
    )
    settle_runs(workbench.store, workbench.ledger, workbench.parent_run_id)
    runs = [run_of(workbench, number) for number in range(3)]
    assert [run.status for run in runs] == ["FAILED", "FAILED", "KILLED"]
    assert [PRUNED in run.tags for run in runs] == [False, False, True]
    assert runs[0].tags["seglab.error"] == "its machine went silent; trial 003 repeats it"


@pytest.mark.parametrize("moment", ["at its start", "before it is told"])
def test_a_machine_that_comes_back_leaves_its_trial_to_the_other(
    write: Write, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    workbench = workbench_of(write())

    def given(value: Any) -> Any:
        give_to_another()
        return value

    if moment == "at its start":
        workbench = replace(workbench, open_data=lambda config: given(bench_data(config)))
        bench_data = workbench_of(Path("tiny.yaml")).open_data
    else:
        workbench = replace(workbench, stopping=lambda: given(False))
    assert do_trial(claim_next(workbench), workbench)
    told = capsys.readouterr().err
    assert "trial 000 is given up here: its machine went silent; trial 001 repeats it" in told
    assert "Traceback" not in told
    run = run_of(workbench, 0)
    assert run.status == "FAILED"
    assert run.tags["seglab.error"] == "its machine went silent; trial 001 repeats it"
    assert not workbench.store.state(run.run_id).exists()
    workbench = replace(
        workbench, stopping=lambda: False, open_data=workbench_of(Path("tiny.yaml")).open_data
    )
    assert do_trial(claim_next(workbench), workbench)
    assert states(workbench.ledger) == ["FAIL", "COMPLETE"]
    assert_runs_equal_trials()


def test_an_error_in_a_trial_that_was_given_away_is_no_error_of_the_search(write: Write) -> None:
    def fail(_: Any) -> Any:
        give_to_another()
        raise UserError("the data are gone")

    workbench = replace(workbench_of(write()), open_data=fail)
    assert do_trial(claim_next(workbench), workbench)
    assert run_of(workbench, 0).status == "FAILED"
    assert states(workbench.ledger) == ["FAIL", "WAITING"]


def test_a_full_disk_leaves_the_trial_to_the_same_command(
    write: Write, tmp_path: Path, mount: Callable[[Path, int], Path]
) -> None:
    disk = mount(tmp_path / "mlruns" / "state", 64 * 1024)
    workbench = workbench_of(write(epochs=3))
    for _ in range(4):  # more often than a trial may kill its worker
        with pytest.raises(UserError, match="no space is left"):
            do_trial(claim_next(workbench), workbench)
        assert states(workbench.ledger) == ["RUNNING"]
        assert run_of(workbench, 0).status == "KILLED"
    enlarge(disk)
    claim = claim_next(workbench)
    assert claim.doomed is None
    assert do_trial(claim, workbench)
    assert states(workbench.ledger) == ["COMPLETE"]
    assert_runs_equal_trials()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_what_led_to_the_error(number: int) -> None:
    error = RuntimeError("cannot be written")
    error.__cause__ = OSError(number, "full")
    assert is_out_of_space(error)
    assert is_out_of_space(RuntimeError("(sqlite3.OperationalError) database or disk is full"))
    assert not is_out_of_space(OSError(errno.EACCES, "denied"))


def test_a_trial_killed_before_it_was_judged_is_judged(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner = {"name": "median", "startup_trials": 1, "warmup_fraction": 0.0}
    workbench = workbench_of(write(epochs=3, pruner=pruner))
    best = claim_next(workbench).trial
    for epoch in (1, 2, 3):
        best.report(2.0, epoch)
    workbench.ledger.tell(best, TrialState.COMPLETE, [2.0])

    def die(*_: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "_is_hopeless", die)
        claim = claim_next(workbench)
        with pytest.raises(KeyboardInterrupt):
            do_trial(claim, workbench)
    assert do_trial(claim_next(workbench), workbench)
    assert trials()[1].state == TrialState.PRUNED
    assert run_of(workbench, 1).tags[PRUNED] == "1"
    assert ERROR not in trials()[1].user_attrs
