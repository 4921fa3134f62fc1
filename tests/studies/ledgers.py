"""A ledger of a search that trains nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from optuna.storages import RDBStorage

import seglab.studies.components  # noqa: F401  (registers)
from seglab.core.study import resolve_study
from seglab.studies.search.identity import load_study, open_study
from seglab.studies.search.ledger import Ledger, requeue
from seglab.studies.search.space import make_space
from seglab.studies.search.storage import open_storage

LR = {"low": 1e-4, "high": 1e-1, "log": True}
DATA = SimpleNamespace(
    cache=SimpleNamespace(data_hash="d" * 64), split=SimpleNamespace(hash="split")
)


def open_ledger(folder: Path, data: Any = DATA, base: Any = None, **search: Any) -> Ledger:
    """Open the study ``s`` in ``folder`` as a worker does; ``search`` is laid over its settings."""
    given = {"space": {"optim.lr": LR}, "trials": 4, "sampler": "random", **search}
    study = resolve_study(
        {
            "name": "s",
            "data": {"source": "brats-h5", "root": "nowhere"},
            "search": given,
            **(base or {}),
        }
    )
    assert study.search is not None
    storage = open_storage(study.search.storage, "s", folder, 20, requeue)
    space = make_space(study)
    open_study("s", space, study.search, data, storage)
    return Ledger(load_study("s", storage), storage, space, study.search, datetime.now())


def open_shared(folder: Path, home: str, **search: Any) -> Ledger:
    """Open the study ``s`` as the machine ``home`` does, from a database that keeps heartbeats."""
    ledger = open_ledger(folder, **search)
    backend = RDBStorage(
        f"sqlite:///{folder / 'study.db'}",
        heartbeat_interval=ledger.search.heartbeat_s,
        grace_period=3 * ledger.search.heartbeat_s,
        heartbeat_stale_trial_callback=requeue,
    )
    (folder / home).mkdir(exist_ok=True)
    storage = replace(ledger.storage, backend=backend, folder=folder / home, home=home)
    open_study("s", ledger.space, ledger.search, DATA, storage)  # type: ignore[arg-type]
    return replace(ledger, study=load_study("s", storage), storage=storage)


def fall_silent(ledger: Ledger) -> None:
    """Let the last sign of life of every trial be an hour ago."""
    assert isinstance(ledger.storage.backend, RDBStorage)
    with ledger.storage.backend.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')"
        )


def states(ledger: Ledger) -> list[str]:
    """Name the state of each trial."""
    return [trial.state.name for trial in ledger.trials]
