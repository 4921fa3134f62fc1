"""From what a person calls a model to a model: a registered name, a run, or files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from seglab.core.errors import UserError
from seglab.learning.bundle import CARD, ModelBundle, load_bundle, read_card
from seglab.studies.candidates import PROMOTED_RUN
from seglab.studies.rebuild import CHECKPOINTS, fetch, fetch_weights
from seglab.tracking import RunInfo, Store, UnknownRun, tags
from seglab.tracking.registry import Registered, fetch_bundle, find_registered

WEIGHTS_SUFFIX = ".safetensors"
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def open_model(name: str, open_store: Callable[[], Store]) -> ModelBundle:
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
        try:
            registered = find_registered(store, name)
        except UserError as unregistered:
            # A model's name may look like the beginning of an id.
            return _from_run(store, _begun_by(store, name, unregistered), Path(folder))
        return load_bundle(fetch_bundle(store, registered.run_id, Path(folder)))


def find_trained_run(store: Store, name: str) -> RunInfo:
    """Find the run that trained what ``name`` names, in all the ways of :func:`open_model`.

    Raises:
        UserError: there is nothing of this name, or no run of this store trained it.
    """
    path = Path(name)
    if path.exists() or _looks_like_path(name):
        card = read_card(_card_folder(path) if path.is_dir() else path.parent)
        if card.run_id is None:
            raise UserError(f"{name}: its {CARD} names no run")
        return store.get_run(card.run_id)
    if "@" in name or "/" in name:
        return store.get_run(_promoted_run(find_registered(store, name)))
    try:
        return store.get_run(name)
    except UnknownRun as unknown:
        if _RUN_ID.fullmatch(name):
            raise
        try:
            registered = find_registered(store, name)
        except UserError as error:
            return _begun_by(store, name, UserError(f"{unknown}; {error}"))
    return store.get_run(_promoted_run(registered))


def _begun_by(store: Store, name: str, otherwise: UserError) -> RunInfo:
    """Find the run whose id begins with ``name``; raises ``otherwise`` where there is none."""
    try:
        return store.find_run(name)
    except UnknownRun:
        raise otherwise from None


def _promoted_run(registered: Registered) -> str:
    if PROMOTED_RUN not in registered.tags:
        raise UserError(
            f"version {registered.version} of model '{registered.name}' was not registered by a "
            f"promotion: it does not say which run trained it (tag {PROMOTED_RUN})"
        )
    return registered.tags[PROMOTED_RUN]


def _looks_like_path(name: str) -> bool:
    if name.startswith("models:/"):
        return False
    return name.startswith((".", "/", "~")) or Path(name).suffix in {
        WEIGHTS_SUFFIX, ".pt", ".pth", ".ckpt", ".pkl", ".bin", ".onnx",
    }  # fmt: skip


def _from_run(store: Store, run: RunInfo, folder: Path) -> ModelBundle:
    if run.tags.get(tags.KIND) == "promotion":
        return load_bundle(fetch_bundle(store, run.run_id, folder))
    if run.status != "FINISHED":
        raise UserError(f"run {run.run_id} ({run.name}) is {run.status}: it has no weights yet")
    fetch(store, run, f"{CHECKPOINTS}/{CARD}", folder)
    return _from_file(fetch_weights(store, run, folder))


def _from_folder(folder: Path) -> ModelBundle:
    """A model's own folder, an MLflow model around it, or a training run's artifacts."""
    home = _card_folder(folder)
    weights = sorted(home.glob(f"*{WEIGHTS_SUFFIX}"))
    if len(weights) != 1:
        raise UserError(
            f"{home} has {len(weights)} {WEIGHTS_SUFFIX} files beside {CARD}; exactly one makes "
            "a model, else name the file"
        )
    return _from_file(weights[0])


def _card_folder(folder: Path) -> Path:
    cards = sorted(folder.rglob(CARD))
    if not cards:
        raise UserError(f"{folder} is no model: it has no {CARD}")
    if len(cards) > 1:
        raise UserError(f"{folder} holds {len(cards)} models; name the folder of one")
    return cards[0].parent


def _from_file(path: Path) -> ModelBundle:
    if path.suffix != WEIGHTS_SUFFIX:
        raise UserError(
            f"{path} is not a {WEIGHTS_SUFFIX} checkpoint; other formats can run code when they "
            "are loaded, and are refused"
        )
    if not (path.parent / CARD).is_file():
        raise UserError(
            f"{path} has no {CARD} beside it, which says what network and preprocessing it is "
            "of; a run logs both: python -m seglab artifacts RUN --out DIR"
        )
    return load_bundle(path.parent, weights=path.name)
