"""Files of runs, and registered models."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError, nearest, unknown_name
from seglab.core.machine import progress
from seglab.learning.bundle import ModelBundle
from seglab.tracking.environment import PACKAGE
from seglab.tracking.errors import as_user_error, redact
from seglab.tracking.store import RunInfo, Store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from seglab.tracking.run import RunLog

CHAMPION = "champion"
FOLDER = "model"
"""Artifact folder of a promotion run that holds its model."""
REQUIRED = (
    "torch", "torchvision", "segmentation-models-pytorch", "albumentations",
    "opencv-python-headless", "numpy", "scipy", "h5py", "nibabel", "pillow", "pydantic", "PyYAML",
    "safetensors", "tqdm",
)  # fmt: skip
"""Packages that a registered model needs where it is served."""
_URI = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))?")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class DownloadReport:
    """Files of a run that a folder now holds."""

    run_id: str
    files: tuple[str, ...]
    bytes: int


def download(store: Store, run_id: str, out: Path, pattern: str | None = None) -> DownloadReport:
    """Copy the artifacts of a run, or those that match a shell pattern, to ``out``.

    They keep their folders; the pattern is of the whole path or the file's name. A name that is
    one file's whole path is that file only.

    Raises:
        UserError: nothing matches, an artifact's name or a link leads out of ``out``, or it cannot
            be written.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    names = list_artifacts(store, run_id)
    wanted = [name for name in names if name == pattern] or [
        name
        for name in names
        if pattern is None or any(fnmatchcase(n, pattern) for n in (name, Path(name).name))
    ]
    if not wanted and pattern is not None:
        raise UserError(f"no artifact of run {run_id} matches '{pattern}'")
    with as_user_error(str(out)):
        out.mkdir(parents=True, exist_ok=True)
    uri = store.call(lambda: store.client.get_run(run_id)).info.artifact_uri
    files = get_artifact_repository(uri, store.uri)
    for name in progress(wanted, "download", unit="file"):
        try:  # the run's own folder, not a name's, is what a file must not leave
            store.call(partial(files.download_artifacts, name, str(out)))
        except MlflowException as error:
            why = redact(str(error).splitlines()[-1])
            raise UserError(f"artifact {name!r} cannot be written to {out}: {why}") from error
    total = sum((out / name).stat().st_size for name in wanted)
    return DownloadReport(run_id, tuple(wanted), total)


def read_artifact(store: Store, run: RunInfo, name: str) -> bytes:
    """Return a file that a run logged; a UserError if it did not."""
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        download(store, run.run_id, Path(folder), name)
        return (Path(folder) / name).read_bytes()


def list_artifacts(store: Store, run_id: str) -> list[str]:
    """Return the path of every file that the run logged, sorted."""
    files: list[str] = []
    folders = [""]
    while folders:
        folder = folders.pop() or None
        for entry in store.call(lambda at=folder: store.client.list_artifacts(run_id, at)):  # type: ignore[misc]
            (folders if entry.is_dir else files).append(str(entry.path))
    return sorted(files)


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: str
    run_id: str
    """The promotion run that made it."""
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """As ``mlflow.pyfunc.load_model`` takes it."""
        return f"models:/{self.name}/{self.version}"


def register_champion(
    store: Store, log: RunLog, bundle: ModelBundle, example: NDArray[np.float32], name: str,
    tags: Mapping[str, str], description: str = "", licence: str = "",
) -> Registered:  # fmt: skip
    """Log an MLflow model (bundle, package source, signature), and register it as ``champion``.

    What goes in and comes out is in its metadata, beside the signature. ``example`` are raw slices
    as the model takes them, (S, H, W) or (M, S, H, W); tags and description are of the version.
    """
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    # Versions without the local part (+cpu), which no package index has.
    versions = {name: metadata.version(name).partition("+")[0] for name in REQUIRED}
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1,) * example.ndim)]),
        outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
    )
    with tempfile.TemporaryDirectory(prefix="seglab-") as scratch:
        data, folder = Path(scratch) / "segmenter", Path(scratch) / FOLDER
        bundle.save(data)
        mlflow.pyfunc.save_model(
            path=str(folder),
            loader_module="seglab.tracking.served_model",
            data_path=str(data),
            code_paths=[str(PACKAGE)],
            signature=signature,
            metadata={**bundle.card.interface(), "licence": licence},
            input_example=example,
            pip_requirements=[f"{name}=={version}" for name, version in versions.items()],
        )
        log.artifact(folder, FOLDER)
    return store.call(lambda: _register(store, log.run_id, name, dict(tags), description))


def _register(
    store: Store, run_id: str, name: str, tags: dict[str, str], description: str
) -> Registered:
    from mlflow.exceptions import MlflowException

    client = store.client
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
    # A promotion that was interrupted here has made its version already.
    known = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    create = client.create_model_version
    made = known[0] if known else create(name, source, run_id, tags=tags)
    client.update_model_version(name, made.version, description)
    client.set_registered_model_alias(name, CHAMPION, made.version)
    return _registered(made)


def describe_version(store: Store, run_id: str, description: str) -> None:
    """Set the description of the version that a promotion registered."""
    client = store.client
    for version in store.call(lambda: client.search_model_versions(f"run_id='{run_id}'")):
        update = partial(client.update_model_version, version.name, version.version, description)
        store.call(update)


def find_registered(store: Store, text: str) -> Registered:
    """Find ``name``, ``name@alias``, ``name/version``, each also after ``models:/``.

    A bare name is its champion.

    Raises:
        UserError: no such model, alias or version; names those that there are.
    """
    from mlflow.exceptions import MlflowException

    match = _URI.fullmatch(text)
    if match is None:
        raise UserError(f"'{text}' is not the name of a registered model (name@{CHAMPION})")
    name, alias, version = match["name"], match["alias"] or CHAMPION, match["version"]
    client = store.client
    try:
        if version is not None:
            return _registered(store.call(lambda: client.get_model_version(name, version)))
        return _registered(store.call(lambda: client.get_model_version_by_alias(name, alias)))
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
    known = registered_models(store)
    if not known:
        raise UserError(
            f"no model is registered, so there is no '{name}'; python -m seglab promote makes one"
        )
    if name not in known:
        raise unknown_name("model", name, known)
    absent = alias if version is None else f"version {version}"
    aliases = ", ".join(known[name]) or "none"
    hint = nearest(absent, known[name])
    raise UserError(f"model '{name}' has no {absent}{hint}; its aliases: {aliases}")


def registered_models(store: Store) -> dict[str, list[str]]:
    """Return the aliases of every registered model by its name."""
    found: list[Any] = store.call(lambda: list(store.client.search_registered_models()))
    return {str(model.name): sorted(model.aliases) for model in found}


def _registered(version: ModelVersion) -> Registered:
    name, number, run_id = map(str, (version.name, version.version, version.run_id))
    return Registered(name, number, run_id, dict(version.tags))
