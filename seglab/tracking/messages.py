"""The four things a run tells MLflow, as JSON, and how each is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Message = dict[str, Any]
"""``do`` names the action; the other keys are its arguments."""

Item = TypeVar("Item")
_MAX_TAGS, _MAX_METRICS = 100, 1000  # what MLflow takes in one batch
_MAX_DIGEST = 36


def batch_message(
    *,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Message:
    """Metrics (stamped with the time of now), params and tags, all new or unchanged."""
    stamp = time.time_ns() // 1_000_000
    rows = [[key, value, stamp, step] for key, value in (metrics or {}).items()]
    return {"do": "batch", "metrics": rows, "params": dict(params or {}), "tags": dict(tags or {})}


def artifact_message(path: Path, folder: str) -> Message:
    """A file or folder, put under ``folder`` of the run's artifacts."""
    return {"do": "artifact", "path": str(path), "folder": folder}


def dataset_message(name: str, digest: str, source: str, context: str, profile: str) -> Message:
    """The data set a run read; ``digest`` is cut to the 36 characters that MLflow keeps."""
    return {
        "do": "dataset",
        "name": name,
        "digest": digest[:_MAX_DIGEST],
        "source": source,
        "context": context,
        "profile": profile,
    }


def status_message(status: str, past_tags: Sequence[str] = ()) -> Message:
    """The end of a run, at the time of now; tags that are not true any more are removed."""
    now = time.time_ns() // 1_000_000
    return {"do": "status", "status": status, "end_time": now, "past_tags": list(past_tags)}


def send(client: MlflowClient, run_id: str, message: Message, folder: Path) -> None:
    """Send one message; relative artifact paths are below ``folder``."""
    _SENDERS[message["do"]](client, run_id, message, folder)


def _send_batch(client: MlflowClient, run_id: str, message: Message, _: Path) -> None:
    from mlflow.entities import Metric, Param, RunTag

    tags = [RunTag(key, value) for key, value in message["tags"].items()]
    params = [Param(key, value) for key, value in message["params"].items()]
    metrics = [Metric(*row) for row in message["metrics"]]
    for some_tags in _chunks(tags, _MAX_TAGS):
        client.log_batch(run_id, tags=some_tags)
    for some_params in _chunks(params, _MAX_TAGS):
        client.log_batch(run_id, params=some_params)
    for some_metrics in _chunks(metrics, _MAX_METRICS):
        client.log_batch(run_id, metrics=some_metrics)


def _send_artifact(client: MlflowClient, run_id: str, message: Message, folder: Path) -> None:
    path = folder / message["path"]
    if path.is_dir():
        client.log_artifacts(run_id, str(path), message["folder"] or None)
    else:
        client.log_artifact(run_id, str(path), message["folder"] or None)


def _send_dataset(client: MlflowClient, run_id: str, message: Message, _: Path) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    dataset = Dataset(
        name=message["name"],
        digest=message["digest"],
        source_type="local",
        source=message["source"],
        profile=message["profile"],
    )
    context = InputTag("mlflow.data.context", message["context"])
    inputs = [DatasetInput(dataset, [context])]
    try:
        client.log_inputs(run_id, inputs)
    except MlflowException as error:
        # Two processes that log the same data set for the first time at once: one is refused.
        if not any(sign in str(error).lower() for sign in ("unique", "duplicate key")):
            raise
        client.log_inputs(run_id, inputs)


def _send_status(client: MlflowClient, run_id: str, message: Message, _: Path) -> None:
    for key in message.get("past_tags", ()):
        _remove_tag(client, run_id, key)
    client.set_terminated(run_id, message["status"], message["end_time"])


def _remove_tag(client: MlflowClient, run_id: str, key: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        if key in client.get_run(run_id).data.tags:
            client.delete_tag(run_id, key)
    except MlflowException as error:  # another machine was faster
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


_SENDERS: dict[str, Callable[[MlflowClient, str, Message, Path], None]] = {
    "batch": _send_batch,
    "artifact": _send_artifact,
    "dataset": _send_dataset,
    "status": _send_status,
}


def _chunks(items: list[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
