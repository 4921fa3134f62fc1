"""A real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chromium import chromium

WAIT_S = 90


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One window for the tests of a module."""
    with chromium(tmp_path_factory.mktemp("profile"), 1600, 1000) as driver:
        driver.set_page_load_timeout(WAIT_S)
        yield driver
