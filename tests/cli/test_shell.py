"""What every command shares: how it ends."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seglab.cli.main import main
from seglab.cli.shell import run_command


def interrupted(arguments: argparse.Namespace) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize("continues", [True, False])
def test_only_what_goes_on_promises_to(capsys: pytest.CaptureFixture[str], continues: bool) -> None:
    assert run_command(interrupted, argparse.Namespace(), continues=continues) == 130
    told = capsys.readouterr().err
    assert told.startswith("interrupted")
    assert ("same command continues" in told) is continues


HIT_IN_GENERATED_CODE = """
import sys
from seglab.cli.shell import run_command

def work(_):
    exec("raise KeyboardInterrupt")  # as dataclasses make their methods

sys.exit(run_command(work, None))
"""


def test_an_interrupt_is_told_by_the_status_wherever_it_hits(tmp_path: Path) -> None:
    (tmp_path / "hit.py").write_text(HIT_IN_GENERATED_CODE)
    root = str(Path(__file__).resolve().parents[2])
    ended = subprocess.run(
        [sys.executable, "-m", "hit"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": root}
    )
    assert ended.returncode == 130


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 2), (errno.EROFS, 2), (errno.EACCES, 2), (errno.EIO, 1)]
)
def test_a_disk_that_takes_nothing_is_the_users_to_mend(
    capsys: pytest.CaptureFixture[str], number: int, status: int
) -> None:
    def command(arguments: argparse.Namespace) -> int:
        raise OSError(number, os.strerror(number), "/full/page.html")

    assert run_command(command, argparse.Namespace()) == status
    told = capsys.readouterr().err
    assert "/full/page.html" in told
    assert (told.count("\n") == 1) is (status == 2)


def test_a_file_where_the_page_should_go_is_named(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "taken"
    there.write_text("")
    given = ["data", "check", "--source", "brats-h5", "--root", str(phantoms), "--out", str(there)]
    assert main(given) == 2
    told = capsys.readouterr().err
    assert str(there) in told
    assert told.count("\n") == 1


def test_a_terminal_that_knows_ascii_alone_ends_no_command() -> None:
    code = "from seglab.cli.shell import run_command\n"
    code += "run_command(lambda _: print('arm \u00b7 seed 0 \u2013 0.9'), None)"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("arm ")
    assert ran.stderr == ""
