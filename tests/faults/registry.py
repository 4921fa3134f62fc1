"""The faults that there are, and what one of them came to."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.workshop import Workshop

Inject = Callable[[Workshop, random.Random], Counter[str]]
"""Does it once and raises AssertionError if anything was lost; counts what was injected."""


@dataclass(frozen=True)
class Fault:
    """Something that happens to a command."""

    name: str
    repeats: int
    inject: Inject
    summary: str


FAULTS: dict[str, Fault] = {}


def fault(name: str, repeats: int) -> Callable[[Inject], Inject]:
    """Register a fault; the first line of the docstring says what it is."""

    def register(inject: Inject) -> Inject:
        summary = (inject.__doc__ or "").splitlines()[0]
        FAULTS[name] = Fault(name, repeats, inject, summary)
        return inject

    return register
