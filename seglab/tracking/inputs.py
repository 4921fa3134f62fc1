"""The data sets that a run says it read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seglab.tracking.store import Store


@dataclass(frozen=True)
class DataInput:
    """A data set as it was logged with a run."""

    name: str
    digest: str
    source: str
    """Where it came from; empty if that was not logged."""
    profile: Mapping[str, Any]
    """Counts, such as ``patients`` and ``slices``."""


def data_inputs(store: Store, run_id: str) -> list[DataInput]:
    """Return the data sets logged as inputs of a run, in the order of the store."""
    run = store.call(lambda: store.client.get_run(run_id))
    found = [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
    return [
        DataInput(d.name, d.digest, str(_object(d.source).get("uri", "")), _object(d.profile))
        for d in found
    ]


def _object(text: str | None) -> dict[str, Any]:
    """Read a JSON object; runs of other programs hold other things."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
