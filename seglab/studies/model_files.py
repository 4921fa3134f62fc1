"""From what a person calls a model to a model: a registered name, a run, or files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from seglab.core.config import RunConfig
from seglab.core.documents import read_document
from seglab.core.errors import UserError
from seglab.core.study import build_run
from seglab.data.cache.geometry import MULTIPLE
from seglab.learning.device import choose_compute
from seglab.learning.postprocess import OperatingPoint
from seglab.learning.segmenter import RECIPE, Segmenter, build_segmenter, load_segmenter
from seglab.learning.training import BEST
from seglab.studies.rebuild import CHECKPOINT, CONFIG, fetch, make_recipe, read_config
from seglab.tracking import RunInfo, Store, UnknownRun
from seglab.tracking.registry import fetch_segmenter, find_registered

WEIGHTS_SUFFIX = ".safetensors"
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def open_model(name: str, open_store: Callable[[], Store]) -> Segmenter:
    """Open a model; no code that comes with it is ever run.

    Args:
        name: a path to a model's folder or its weights, a run id, or a registered
            name (``name``, ``name@alias``, ``name/version``).
        open_store: called where the store is needed.

    Raises:
        UserError: there is nothing of this name, or it is no safetensors checkpoint.
    """
    path = Path(name)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return _from_file(path)
    if _looks_like_path(name):
        raise UserError(f"{name}: no such checkpoint")
    store = open_store()
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        if _RUN_ID.fullmatch(name):
            try:
                return _from_run(store, store.get_run(name), Path(folder))
            except UnknownRun:
                pass
        registered = find_registered(store, name)
        return load_segmenter(fetch_segmenter(store, registered.run_id, Path(folder)))


def _looks_like_path(name: str) -> bool:
    if name.startswith("models:/"):
        return False
    return name.startswith((".", "/", "~")) or Path(name).suffix in {
        WEIGHTS_SUFFIX, ".pt", ".pth", ".ckpt", ".pkl", ".bin", ".onnx",
    }  # fmt: skip


def _from_run(store: Store, run: RunInfo, folder: Path) -> Segmenter:
    if run.tags.get("seglab.kind") == "promotion":
        return load_segmenter(fetch_segmenter(store, run.run_id, folder))
    if run.status != "FINISHED":
        raise UserError(f"run {run.run_id} ({run.name}) is {run.status}: it has no best weights")
    config = read_config(store, run)
    return _from_config(config, fetch(store, run, CHECKPOINT, folder))


def _from_folder(folder: Path) -> Segmenter:
    """A model's own folder, an MLflow model around it, or a training run's artifacts."""
    recipes = sorted(folder.rglob(RECIPE))
    if len(recipes) == 1:
        return load_segmenter(recipes[0].parent)
    if recipes:
        raise UserError(f"{folder} holds {len(recipes)} models; name the folder of one")
    for weights in (folder / CHECKPOINT, folder / BEST):
        if weights.is_file():
            return _from_file(weights)
    raise UserError(
        f"{folder} is no model: it has neither {RECIPE} nor {CHECKPOINT} with a {CONFIG}"
    )


def _from_file(path: Path) -> Segmenter:
    if path.suffix != WEIGHTS_SUFFIX:
        raise UserError(
            f"{path} is not a {WEIGHTS_SUFFIX} checkpoint; other formats can run code when they "
            "are loaded, and are refused"
        )
    if (path.parent / RECIPE).is_file():
        return load_segmenter(path.parent, weights=path.name)
    for config in (path.parent / CONFIG, path.parent.parent / CONFIG):
        if config.is_file():
            return _from_config(build_run(read_document(config)), path)
    raise UserError(f"{path} has no {CONFIG} beside or above it, which says what network it is of")


def _from_config(config: RunConfig, weights: Path) -> Segmenter:
    """A training run's weights at its own threshold.

    The window that its cache had is not on record; the whole frame holds it.
    """
    side = -(-config.data.image_size // MULTIPLE) * MULTIPLE
    compute = choose_compute(config.train)
    point = OperatingPoint(threshold=config.evaluation.threshold)
    recipe = make_recipe(config, config.name, (side, side), compute.precision, point)
    return build_segmenter(recipe, weights, compute)
