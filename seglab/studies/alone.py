"""One process at a time trains a study: started twice at once it would be trained twice."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from seglab.core.config import RunConfig
from seglab.core.locks import FileLock
from seglab.core.study import Study
from seglab.data.cache.files import digest
from seglab.tracking import Store

LOCKS = "locks"
"""Folder in the store's."""


@contextmanager
def alone(study: Study, store: Store, *, wait: bool = True) -> Iterator[None]:
    """Hold the study for this process, once no other of this machine does; death lets go of it.

    Of several machines that share a server each knows only its own processes.

    Args:
        study: what is trained; other seeds, arms, files or another store are another study.
        store: where it is logged.
        wait: for another process that holds it; without, go on beside it.
    """
    lock = FileLock(store.folder / LOCKS / f"{_identity(study, store)}.lock")
    if not lock.try_acquire() and wait:
        _wait(lock, study.name)
    try:
        yield
    finally:
        lock.remove()


def _wait(lock: FileLock, name: str) -> None:
    print(
        f"another process trains '{name}' with the same settings: waiting for its result "
        "(--fresh would train it a second time)",
        file=sys.stderr,
    )
    lock.acquire(wait_s=math.inf)


def _identity(study: Study, store: Store) -> str:
    """Hash of all that the command asks for."""
    asked = {
        "store": store.uri,
        "name": study.name,
        "arms": {arm: _files_and_settings(config) for arm, config in study.arms.items()},
        "seeds": study.seeds,
        "folds": study.folds,
        "budget": study.budget.model_dump(),
        "tune": study.tune and study.tune.model_dump(),
    }
    return digest(asked)[:12]


def _files_and_settings(config: RunConfig) -> list[str]:
    return [str(config.data.root.resolve()), config.hash()]
