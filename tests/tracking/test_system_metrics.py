"""MLflow's own system metrics: on by default, once a step, and no thread is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from seglab.tracking.run import RunLog, resume_run, start_run
from seglab.tracking.store import Store

KEY = "system/cpu_utilization_percentage"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")


def samplers() -> set[threading.Thread]:
    """Also those of runs that other tests never ended."""
    return {thread for thread in threading.enumerate() if "SystemMetrics" in thread.name}


def wait_for_samples(run: RunLog, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(run.store.metric_history(run.run_id, KEY)) < count:
        assert time.monotonic() < deadline, "no samples"
        time.sleep(0.1)


def steps(store: Store, run_id: str) -> list[int]:
    return [step for step, _ in store.metric_history(run_id, KEY)]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_run_is_sampled_until_it_ends(store: Store, error: type[BaseException] | None) -> None:
    before = samplers()
    try:
        with start_run(store, "sampled", "run", {"seglab.kind": "train"}) as run:
            wait_for_samples(run, 2)
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert samplers() <= before
    found = steps(store, run.run_id)
    assert found == list(range(len(found)))
    assert "system/system_memory_usage_megabytes" in store.get_run(run.run_id).metrics


def test_a_run_that_was_killed_goes_on_with_the_next_step(
    store: Store, log_and_die: Callable[[Store, Callable[[RunLog], object]], str]
) -> None:
    run_id = log_and_die(store, lambda run: wait_for_samples(run, 2))
    before = len(steps(store, run_id))
    with resume_run(store, run_id) as run:
        wait_for_samples(run, before + 2)
    found = steps(store, run_id)
    assert found == list(range(len(found)))


def test_runs_that_coordinate_are_not_sampled(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = samplers()
    with start_run(store, "sampled", "parent", {"seglab.kind": "sweep"}):
        assert samplers() <= before
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with start_run(store, "sampled", "off"):
        assert samplers() <= before
