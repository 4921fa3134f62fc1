"""The Optuna study of a search: it continues only with the same space, base config and data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from seglab.core.config import flatten, without_local
from seglab.core.errors import UserError
from seglab.core.search import Search
from seglab.studies.data import StudyData
from seglab.studies.search.space import Space

IDENTITY = "identity"
_IS_HASH = re.compile("[0-9a-f]{12,64}").fullmatch


def open_study(
    name: str, space: Space, search: Search, data: StudyData, storage: BaseStorage, folder: Path
) -> optuna.Study:
    """Find the study, or begin it.

    Args:
        name: of the search.
        space: what is searched.
        search: how.
        data: of the base config.
        storage: Optuna's.
        folder: of the store, where earlier versions kept journals.

    Raises:
        UserError: it is there, but of another space, base config or data; says what changed.
            Or an earlier version began it in a journal file.
    """
    identity = describe(space, search, data)
    two = search.second_objective != "none"
    directions = [StudyDirection.MAXIMIZE] + [StudyDirection.MINIMIZE] * two
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        journal = folder / "optuna" / f"{name}.log"
        if journal.exists():
            raise UserError(
                f"search '{name}' was begun by an earlier version in {journal}, which this one "
                "does not read: finish it there, or give this search another name: name=…"
            ) from None
        study = optuna.create_study(
            storage=storage, study_name=name, directions=directions, load_if_exists=True
        )
    if IDENTITY not in study.user_attrs:
        study.set_user_attr(IDENTITY, identity)
    refuse_change(name, study.user_attrs[IDENTITY], identity)
    return study


def describe(space: Space, search: Search, data: StudyData) -> dict[str, Any]:
    """Everything that trials of one study have in common, as plain values."""
    domains = {
        key: domain.model_dump(exclude_defaults=True) for key, domain in space.domains.items()
    }
    described = {
        "space": domains,
        "base": flatten({**without_local(space.base), "name": None}),
        "data": {"content": data.cache.data_hash, "split": data.split.hash},
        "second_objective": search.second_objective,
    }
    return dict(json.loads(json.dumps(described)))


def refuse_change(name: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise unless both are the same, naming the first differences."""
    before, now = _leaves(known), _leaves(given)
    changed = [
        f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"study '{name}' was begun with something else: {'; '.join(changed[:3])}{more}; "
            "change it back, or give this search another name: name=…"
        )


def _leaves(identity: Mapping[str, Any]) -> dict[str, Any]:
    leaves: dict[str, Any] = {"second_objective": identity.get("second_objective")}
    for block in ("space", "base", "data"):
        leaves |= {f"{block}.{key}": value for key, value in identity.get(block, {}).items()}
    return leaves


def _short(value: Any) -> str:
    if isinstance(value, str) and _IS_HASH(value):
        return value[:12]  # as long as the table of runs shows it
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
