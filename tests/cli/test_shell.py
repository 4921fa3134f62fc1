"""What every command shares: how it ends."""

from __future__ import annotations

import argparse

import pytest

from seglab.cli.shell import run_command


def interrupted(arguments: argparse.Namespace) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize("continues", [True, False])
def test_only_what_goes_on_promises_to(capsys: pytest.CaptureFixture[str], continues: bool) -> None:
    assert run_command(interrupted, argparse.Namespace(), continues=continues) == 130
    told = capsys.readouterr().err
    assert told.startswith("interrupted")
    assert ("same command continues" in told) is continues
