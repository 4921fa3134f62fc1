"""Stages on so little data that their figures mean nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import benchmarks.stages  # noqa: F401
from benchmarks.material import Material, Scale

TINY = Scale(
    patients=8,
    size=64,
    slices=8,
    files=70,
    volumes=1,
    samples=16,
    thin_slices=8,
    few_samples=16,
    fewer_samples=8,
    rounds=1,
    arms=3,
    cohort=12,
    resamples=200,
    full_set=500,
)


@pytest.fixture(scope="module")
def material() -> Iterator[Material]:
    with Material(scale=TINY) as made:
        yield made
