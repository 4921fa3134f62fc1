"""Errors a person can act on."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can correct; exit status 2, without a traceback.

    The message is one line that names the file, key or name and what is allowed.
    """


class TrainingDiverged(Exception):
    """The loss stopped being finite; carries where it happened."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where there is none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextmanager
def as_warning(what: str) -> Iterator[None]:
    """Print an error of the block as a warning, and ``what`` is missing: finished work stays."""
    try:
        yield
    except Exception as error:
        print(f"warning: {what}: {type(error).__name__}: {first_line(error)}", file=sys.stderr)


def nearest(name: object, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest choice, or an empty string.

    Of a mapping the keys are compared, and the value of the closest is shown.
    """
    shown = choices if isinstance(choices, Mapping) else {choice: choice for choice in choices}
    matches = difflib.get_close_matches(str(name), shown, n=1, cutoff=0.5)
    return f" (did you mean '{shown[matches[0]]}'?)" if matches else ""


def unknown_name(kind: str, name: object, choices: Iterable[str]) -> UserError:
    """Build the error for a name that is not among ``choices``."""
    allowed = sorted(choices)
    if not allowed:
        return UserError(f"unknown {kind} '{name}': there is none")
    return UserError(
        f"unknown {kind} '{name}'{nearest(name, allowed)}; choose one of: {', '.join(allowed)}"
    )
