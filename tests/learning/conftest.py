"""Cached phantoms."""

from __future__ import annotations

import pytest

from seglab.data.open import StudyData, open_data
from tests.learning.trainers import Build


@pytest.fixture(scope="session")
def data(small_config: Build) -> StudyData:
    """Data of a small run, which tests only read."""
    return open_data(small_config())
