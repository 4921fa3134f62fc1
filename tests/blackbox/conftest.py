"""The study that the tests of this folder share."""

from __future__ import annotations

import pytest

from tests.blackbox.commands import Study, make_study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Phantoms and a store; what a test adds to it, no other test sees."""
    return make_study(tmp_path_factory.mktemp("study"))
