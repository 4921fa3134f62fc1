"""Where a search is kept: a journal that is written by many and cut short by some."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.studies.search.ledger import requeue, take_ownership
from seglab.studies.search.storage import cut_torn_line, open_storage
from tests.studies.ledgers import open_ledger, states


def test_a_journal_survives_a_line_that_was_cut_short(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    owner = take_ownership(ledger.storage, "s")
    assert ledger.claim(owner.path.name, 1) is not None
    journal = tmp_path / "s.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 5, "wor')
    again = open_ledger(tmp_path)
    assert states(again) == ["RUNNING"]
    assert again.claim(owner.path.name, 1) is not None
    assert states(open_ledger(tmp_path)) == ["RUNNING", "RUNNING"]


@pytest.mark.parametrize("text", [b"", b"a\n", b"a\nbc", b"bc", b"a\n" + b"x" * 9000])
def test_only_what_follows_the_last_line_break_is_cut(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(text)
    cut_torn_line(path)
    assert path.read_bytes() == text[: text.rfind(b"\n") + 1]


def test_the_lock_of_a_killed_writer_is_free_at_once(tmp_path: Path) -> None:
    open_ledger(tmp_path)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from seglab.studies.search.storage import JournalLock\n"
        "JournalLock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.log")], check=False)
    assert states(open_ledger(tmp_path)) == ["WAITING"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://me:secret@host/db", "is not of the form postgresql"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/db", "cannot be reached"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named_without_its_password(
    tmp_path: Path, url: str, told: str
) -> None:
    if "psycopg" in url:
        pytest.importorskip("psycopg")
    with pytest.raises(UserError, match=told) as raised:
        open_storage(url, "s", tmp_path, 20, requeue)
    assert "secret" not in str(raised.value)


def test_a_file_that_is_no_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.log").write_text('{"op_code": 99, "worker_id": "x"}\nnonsense\n')
    with pytest.raises(UserError, match=r"s\.log: not a study"):
        open_storage(None, "s", tmp_path, 20, requeue)
