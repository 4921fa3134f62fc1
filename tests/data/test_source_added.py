"""A source of one's own is one decorated class."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seglab.core.config import RunConfig
from seglab.core.registry import SOURCES
from seglab.data.open import open_data
from seglab.data.sources.brats_h5 import BratsH5

NAME = "slices-of-our-own"


@pytest.fixture
def own_source() -> type[BratsH5]:
    @SOURCES.register(NAME)
    class Own(BratsH5):
        """Slice files as the scanner of our own hospital writes them."""

        name = NAME

    return Own


@pytest.mark.usefixtures("own_source")
def test_a_config_can_name_it(small_config: Callable[..., RunConfig]) -> None:
    own = open_data(small_config(data={"source": NAME, "workers": 1}))
    known = open_data(small_config())
    assert own.cache.source == NAME
    assert own.split.train == known.split.train
