"""The model registry: a promoted model under its alias, and the way back to its files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError, unknown_name
from seglab.learning.bundle import CARD, WEIGHTS, ModelBundle
from seglab.tracking.artifacts import download
from seglab.tracking.environment import PACKAGE
from seglab.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

    from seglab.tracking.run import RunLog

CHAMPION = "champion"
FOLDER = "model"
"""Artifact folder of a promotion run that holds its model."""
REQUIRED = (
    "torch", "torchvision", "segmentation-models-pytorch", "albumentations",
    "opencv-python-headless", "numpy", "scipy", "h5py", "nibabel", "pillow", "pydantic", "PyYAML",
    "safetensors", "tqdm",
)  # fmt: skip
_URI = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))?")


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
    tags: Mapping[str, str],
) -> Registered:  # fmt: skip
    """Log the model as an artifact of the open run, and register it under ``champion``.

    Args:
        store: whose registry.
        log: the promotion run.
        bundle: network, preprocessing and operating point.
        example: raw slices as the model takes them, (S, H, W) or (M, S, H, W).
        name: of the registered model; made if absent.
        tags: of the version.
    """
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        save_served(bundle, example, Path(folder) / FOLDER)
        log.artifact(Path(folder) / FOLDER, FOLDER)
    return store.call(lambda: _register(store, log.run_id, name, dict(tags)))


def save_served(bundle: ModelBundle, example: NDArray[np.float32], folder: Path) -> None:
    """Write an MLflow model: the bundle's folder, the package's source, and a signature."""
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory(prefix="seglab-") as scratch:
        data = Path(scratch) / "segmenter"
        bundle.save(data)
        mlflow.pyfunc.save_model(
            path=str(folder),
            loader_module="seglab.tracking.served_model",
            data_path=str(data),
            code_paths=[str(PACKAGE)],
            signature=_signature(example.ndim),
            input_example=example,
            pip_requirements=_requirements(),
        )


def _signature(dimensions: int) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1,) * dimensions)]),
        outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
    )


def _requirements() -> list[str]:
    # Without the local part (+cpu), which no package index has.
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIRED]


def _register(store: Store, run_id: str, name: str, tags: dict[str, str]) -> Registered:
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
    made = known[0] if known else client.create_model_version(name, source, run_id, tags=tags)
    client.set_registered_model_alias(name, CHAMPION, made.version)
    return _registered(made)


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
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    raise _no_model(store, name, alias if version is None else f"version {version}")


def fetch_bundle(store: Store, run_id: str, out: Path) -> Path:
    """Download weights and description, and nothing else, of a promotion's model.

    Returns:
        A folder for :func:`seglab.learning.bundle.load_bundle`.

    Raises:
        UserError: the run has no such model.
    """
    for name in (CARD, WEIGHTS):
        download(store, run_id, out, f"{FOLDER}/*{name}")
    return next(out.rglob(CARD)).parent


def registered_models(store: Store) -> dict[str, list[str]]:
    """Return the aliases of every registered model by its name."""
    found: list[Any] = store.call(lambda: list(store.client.search_registered_models()))
    return {str(model.name): sorted(model.aliases) for model in found}


def _no_model(store: Store, name: str, wanted: str) -> UserError:
    known = registered_models(store)
    if not known:
        return UserError(
            f"no model is registered, so there is no '{name}'; python -m seglab promote makes one"
        )
    if name not in known:
        return unknown_name("model", name, known)
    aliases = ", ".join(known[name]) or "none"
    return UserError(f"model '{name}' has no {wanted}; its aliases: {aliases}")


def _registered(version: ModelVersion) -> Registered:
    return Registered(
        name=str(version.name),
        version=str(version.version),
        run_id=str(version.run_id),
        tags=dict(version.tags),
    )
