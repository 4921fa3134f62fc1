"""A planted study and an empty store, one a module."""

from __future__ import annotations

import pytest

from seglab.core.study import Study
from seglab.tracking.connect import open_store
from seglab.tracking.store import Store
from tests.verdicts.searches import planted_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return planted_study(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("store") / "mlruns")
