"""Shared fixtures."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from seglab.core.config import RunConfig
    from seglab.tracking.store import Store

# A shell that starts the tests in the background has Ctrl-C ignored, and every process that a
# test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow; that is no property of the code.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _registries_restored() -> Iterator[None]:
    """Forget what a test registered, so that tests pass in any order."""
    yield
    registries = sys.modules.get("seglab.core.registry")
    for name in ("MODELS", "LOSSES", "AUGMENTATIONS", "SOURCES") if registries else ():
        registered = getattr(registries, name)._registered
        for key in [
            k for k, e in registered.items() if not e.build.__module__.startswith("seglab")
        ]:
            del registered[key]


@pytest.fixture(autouse=True)
def _nothing_was_said() -> None:
    """Let each test hear what a process says only once."""
    if machine := sys.modules.get("seglab.core.machine"):
        machine.tell_once.cache_clear()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real MRI, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("SEGLAB_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent (set SEGLAB_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of nine small phantom patients in the Kaggle layout."""
    from seglab.data.phantom.write import write_phantom

    out = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantom(out, patients=9, size=64, slices=12, seed=3, workers=1)
    return out


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for caches that tests may share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small_config(phantoms: Path, shared_cache: Path) -> Callable[..., RunConfig]:
    """Build the config of a run that takes a second; keyword arguments are laid over it."""
    from seglab.core.documents import merge
    from seglab.core.study import build_run

    def build(**overrides: object) -> RunConfig:
        document = {
            "name": "small",
            "data": {
                "source": "brats-h5",
                "root": str(phantoms),
                "cache": str(shared_cache),
                "image_size": 64,
            },
            "model": {"name": "unet", "base_channels": 4, "depth": 3},
            "optim": {"lr": 0.01},
            "train": {"epochs": 3, "batch_size": 8, "threads": 1, "device": "cpu"},
        }
        return build_run(merge(document, overrides))

    return build


@pytest.fixture(scope="session")
def fresh_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty store; copied, not used, since making one takes seconds."""
    from seglab.tracking.connect import open_store

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return open_store(tmp_path_factory.mktemp("fresh") / "mlruns").folder


@pytest.fixture
def fresh_store(fresh_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store in the folder of a test."""
    from seglab.tracking.connect import open_store

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(fresh_folder, tmp_path / "mlruns")
    return open_store(tmp_path / "mlruns")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The window of a real browser."""
    from tests.chromium import chromium

    with chromium(tmp_path_factory.mktemp("profile"), 1600, 1000) as driver:
        driver.set_page_load_timeout(90)
        yield driver


@pytest.fixture
def mount() -> Iterator[Callable[[Path, int], Path]]:
    """Put a disk of so many bytes at a folder, until the test ends; skips where none may be."""
    from tests.faults.tmpfs import small_disk

    with ExitStack() as stack:

        def put(folder: Path, size_bytes: int) -> Path:
            try:
                stack.enter_context(small_disk(folder, size_bytes))
            except (OSError, AssertionError):
                pytest.skip("mounting a small tmpfs needs rights that this process does not have")
            return folder

        yield put
