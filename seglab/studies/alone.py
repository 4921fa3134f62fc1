"""One process at a time trains a study: started twice at once it would be trained twice."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from seglab.core.locks import FileLock
from seglab.core.study import Study
from seglab.tracking import RunInUse, Store


@contextmanager
def alone(study: Study, store: Store) -> Iterator[None]:
    """Hold the study for this process, once no other of this machine does; death lets go of it.

    Of several machines that share a server each knows only its own processes.
    """
    lock = _claim(study, store)
    try:
        yield
    finally:
        store.leave(lock)


def _claim(study: Study, store: Store) -> FileLock:
    key = f"study-{_everything(study)}"
    is_told = False
    while True:
        try:
            return store.claim(key)
        except RunInUse:
            if not is_told:
                print(
                    f"another process trains '{study.name}' with the same settings: waiting for "
                    "its result (--fresh would train it a second time)",
                    file=sys.stderr,
                )
            is_told = True


def _everything(study: Study) -> str:
    """Hash of all that the command asks for."""
    asked = {
        "name": study.name,
        "arms": {
            arm: (config.hash(), str(config.data.root.resolve()), config.split.fold)
            for arm, config in study.arms.items()
        },
        "seeds": study.seeds,
        "budget": study.budget.model_dump(),
        "tune": study.tune and study.tune.model_dump(),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
