"""All that is compared must have been done by the same code.

Commands are forked from a process that has imported it long before, the workers of a search
import it when they start, and what undisturbed commands left may be of last week.
"""

from __future__ import annotations

from pathlib import Path

from seglab.tracking.environment import PACKAGE, code_hash

MARK = "code"


class MixedCode(Exception):
    """Some was done by other code: differences say nothing."""


class OneCode:
    """The code that a folder of the campaign belongs to: of whoever used it first."""

    def __init__(self, folder: Path, package: Path = PACKAGE) -> None:
        self._mark, self._package = folder / MARK, package

    def check(self) -> None:
        """Raise :class:`MixedCode` if the package is not as it was."""
        now = code_hash.__wrapped__(self._package)  # past what it remembers
        if not self._mark.exists():
            self._mark.write_text(now)
        if self._mark.read_text() != now:
            raise MixedCode(
                f"the code has changed since {self._mark.parent} was begun: "
                "leave it alone while a campaign runs, and begin another folder"
            )
