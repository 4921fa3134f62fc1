"""A disk that is full, and databases that another process locks, while a command works."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.blackbox.commands import LONGEST_S, run, start
from tests.faults.tmpfs import KB, ROOMY_BYTES, fill_up
from tests.faults.undisturbed import COMMANDS, Undisturbed, finish, results, undisturbed

pytestmark = pytest.mark.slow

LOCKED_S = 25  # MLflow gives up on a locked database after 20


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module", params=COMMANDS)
def of(request: pytest.FixtureRequest, top: Path, phantoms: Path) -> Undisturbed:
    return undisturbed(request.param, top, phantoms)


# With nothing free every command that makes a store ends where it makes it.
@pytest.mark.parametrize(
    ("of", "free_kb"),
    [("run", 0), ("promotion", 0), *((command, 400) for command in COMMANDS)],
    indirect=["of"],
)
def test_a_full_disk_is_said_and_the_same_command_goes_on(
    of: Undisturbed, tmp_path: Path, mount: Callable[[Path, int], Path], free_kb: int
) -> None:
    folder = mount(tmp_path / "disk", ROOMY_BYTES)
    of.copy(folder)
    fill_up(folder / "filler")
    with (folder / "filler").open("ab") as filler:
        filler.truncate(filler.tell() - free_kb * KB)
    ended = run(folder, *COMMANDS[of.command])
    assert ended.status == 2, ended.err[-2000:]
    assert re.search(r"No space left|disk is full", ended.err)
    assert "Traceback" not in ended.err
    (folder / "filler").unlink()
    finish(folder, of.command)
    assert results(folder, of.command) == of.results


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock every database of a store against reading and writing."""
    with ExitStack() as stack:
        for path in (folder / "mlruns").glob("*.db"):
            database = sqlite3.connect(path, timeout=60, isolation_level=None)
            stack.callback(database.close)
            database.execute("begin exclusive")
        yield


def test_databases_locked_for_a_while_change_nothing(of: Undisturbed, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    of.copy(folder)
    process = start(folder, *COMMANDS[of.command])
    time.sleep(of.seconds / 2)
    assert process.poll() is None
    with locked(folder):
        time.sleep(LOCKED_S)
    _, err = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, err[-2000:]
    assert results(folder, of.command) == of.results
