"""Progress bars: for a person at a terminal, and for nobody else."""

from __future__ import annotations

import io
import sys

import pytest

from seglab.core.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "silenced", "shows"),
    [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)],
    ids=["terminal", "shared terminal", "file"],
)
def test_a_bar_shows_on_a_terminal_that_is_ours(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], silenced: bool, shows: bool
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if silenced:
        monkeypatch.setenv("TQDM_DISABLE", "1")
    told = stream()
    monkeypatch.setattr(sys, "stderr", told)
    assert list(progress(iter("abc"), "reading", total=3, delay_s=0)) == ["a", "b", "c"]
    assert ("reading" in told.getvalue()) is shows
    assert shows or told.getvalue() == ""
