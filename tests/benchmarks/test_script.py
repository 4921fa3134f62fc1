"""References run beside seglab, not inside it."""

from __future__ import annotations

import multiprocessing
import os
from functools import partial
from pathlib import Path

from benchmarks.script import Epoch, script


def _write_down(file: Path) -> None:
    policy = os.environ.get("OMP_WAIT_POLICY", "the runtime's own")
    with file.open("a", encoding="utf-8") as out:
        print(os.getpid(), policy, multiprocessing.get_start_method(), sep=";", file=out)


def _make(file: Path) -> Epoch:
    return partial(_write_down, file)


def test_a_script_is_called_in_one_other_process_without_our_settings(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    with script(partial(_make, file)) as call:
        call()
        call()
    first, second = (line.split(";") for line in file.read_text().splitlines())
    assert first == second
    assert int(first[0]) != os.getpid()
    assert first[1] == "the runtime's own"
    assert first[2] == multiprocessing.get_all_start_methods()[0]  # what a script has
    assert os.environ["OMP_WAIT_POLICY"]  # of this process, set by seglab
