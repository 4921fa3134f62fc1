"""What a store holds, as far as it must not depend on what happened on the way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from seglab.tracking import RunInfo, Store, open_store

MOVING = ("time/", "cost/train_seconds", "cost/images_per_second", "cost/peak", "search/")
"""Figures of the clock and of memory, and how a search looked while it went on."""
SAME_BYTES = (".csv", "split.json", "config.yaml", "test_results.json")
TAGS = (
    "kind", "arm", "seed", "fold", "trial", "config_hash", "data_hash", "split_hash", "error",
    "finished", "failed", "confirmatory", "operating_point", "test_state",
)  # fmt: skip
LEFT_BEHIND = ("*.tmp-*", "*.part", ".last.pt.*", ".weights.safetensors.*", ".mlflow.db.new*")


@dataclass(frozen=True)
class Holdings:
    """Everything that must be equal, in an order of its own."""

    runs: tuple[dict[str, Any], ...]
    models: tuple[tuple[str, str, str], ...]
    """(name, alias, status of the run that made it) of every version."""
    trials: tuple[tuple[Any, ...], ...]


def read_holdings(folder: Path, uri: str | None = None, trials_url: str | None = None) -> Holdings:
    """Read a store, by the folder or through servers of runs and of trials."""
    store = _open(folder, uri)
    runs = store.find_runs()
    return Holdings(
        runs=tuple(sorted((_describe(store, run) for run in runs), key=_order)),
        models=_models(store),
        trials=_trials(folder / "optuna", trials_url),
    )


def _open(folder: Path, uri: str | None) -> Store:
    import os

    before = os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        if uri is not None:
            os.environ["MLFLOW_TRACKING_URI"] = uri
        return open_store(folder)
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _order(run: dict[str, Any]) -> tuple[str, ...]:
    return run["experiment"], run["name"], run["status"]


def _describe(store: Store, run: RunInfo) -> dict[str, Any]:
    lasting = [key for key in run.metrics if not key.startswith(MOVING)]
    parent = run.parent_run_id
    return {
        "experiment": store.experiments()[run.experiment_id],
        "name": run.name,
        "status": run.status,
        "parent": None if parent is None else store.get_run(parent).name,
        "tags": {tag: run.tags.get(f"seglab.{tag}") for tag in TAGS},
        "params": run.params,
        # The store returns a value that was written twice twice.
        "metrics": {key: store.metric_history(run.run_id, key) for key in sorted(lasting)},
        "artifacts": _artifacts(store, run.run_id),
    }


def _artifacts(store: Store, run_id: str) -> dict[str, str]:
    found = store.client.download_artifacts(run_id, "")
    files = sorted(path for path in Path(found).rglob("*") if path.is_file())
    return {path.relative_to(found).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    """Digest of a file's bytes, or of the weights in it; none where the run's id is in it."""
    if path.suffix == ".safetensors":  # its header comes in any order
        weights = load_file(path).items()
        content = b"".join(name.encode() + value.tobytes() for name, value in sorted(weights))
    elif path.name.endswith(SAME_BYTES):
        content = path.read_bytes()
    else:
        return ""
    return hashlib.sha256(content).hexdigest()


def _models(store: Store) -> tuple[tuple[str, str, str], ...]:
    found = []
    for model in store.client.search_registered_models():
        for version in store.client.search_model_versions(f"name='{model.name}'"):
            aliases = ",".join(
                a for a, v in model.aliases.items() if str(v) == str(version.version)
            )
            found.append((str(model.name), aliases, store.get_run(version.run_id).status))
    return tuple(sorted(found))


def _trials(folder: Path, url: str | None) -> tuple[tuple[Any, ...], ...]:
    import optuna

    from seglab.studies.search.ledger import requeue
    from seglab.studies.search.storage import open_storage

    names = ["sweep"] if url else [path.stem for path in folder.glob("*.log")]
    found = []
    for name in names:
        storage = open_storage(url, name, folder, 20, requeue)
        for trial in optuna.load_study(study_name=name, storage=storage.backend).trials:
            found.append((name, trial.number, trial.state.name, trial.values, trial.params))
    return tuple(found)


def differences(expected: Holdings, found: Holdings) -> list[str]:
    """Name what differs, a line each."""
    names = [run["name"] for run in expected.runs], [run["name"] for run in found.runs]
    if names[0] != names[1]:
        states = [(run["name"], run["status"]) for run in found.runs]
        return [f"runs are {states}, not {names[0]}"]
    lines = []
    for one, other in zip(expected.runs, found.runs, strict=True):
        for part in one:
            if one[part] != other[part]:
                lines.append(f"{one['name']}: {part} differ: {_first(one[part], other[part])}")
    if expected.models != found.models:
        lines.append(f"registered are {found.models}, not {expected.models}")
    if expected.trials != found.trials:
        lines.append(f"trials are {found.trials}, not {expected.trials}")
    return lines


def _first(one: Any, other: Any) -> str:
    if not isinstance(one, dict):
        return f"{one} and {other}"
    keys = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    return "; ".join(f"{key}: {one.get(key)} and {other.get(key)}" for key in sorted(keys)[:3])


def leftovers(folder: Path) -> list[str]:
    """Half files and states of runs that have ended."""
    found = [path for pattern in LEFT_BEHIND for path in folder.rglob(pattern)]
    found += list((folder / "mlruns" / "state").glob("*"))
    return sorted(path.relative_to(folder).as_posix() for path in found)
