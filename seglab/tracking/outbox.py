"""What a run has to tell MLflow: sent at once, or kept on disk until the store is back.

Every message can be sent twice without harm (metrics carry their timestamps,
params and tags their values, artifacts replace themselves), so a crash in the
middle of sending loses nothing and doubles nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from seglab.tracking.failures import explained, is_away, unreachable
from seglab.tracking.messages import Message, send

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

JOURNAL = "pending.jsonl"
_FIRST_RETRY_S, _LAST_RETRY_S = 5.0, 60.0


class Outbox:
    """Sends the messages of one run in order, through outages of the store."""

    def __init__(self, client: MlflowClient, uri: str, run_id: str, folder: Path) -> None:
        self._client = client
        self._uri = uri
        self._run_id = run_id
        self._folder = folder
        self._pending = read_journal(folder)
        self._retry_s = _FIRST_RETRY_S
        self._next_try = 0.0

    @property
    def pending(self) -> tuple[Message, ...]:
        """Messages that the store does not have yet, oldest first."""
        return tuple(self._pending)

    def put(self, message: Message) -> None:
        """Send ``message``, or keep it while the store is away.

        Raises:
            UserError: the store, or the disk that must keep the message, is full or read-only.
        """
        if self._pending and time.monotonic() >= self._next_try:
            self.flush()
        if self._pending or not self._send(message):
            with explained(str(self._folder)):
                self._keep(message)

    def flush(self, wait_s: float = 0) -> bool:
        """Send what was kept, trying for ``wait_s`` seconds; True when nothing is left."""
        deadline = time.monotonic() + wait_s
        while not self._flush_once():
            if time.monotonic() >= deadline:
                return False
            time.sleep(1)
        return True

    def _flush_once(self) -> bool:
        before = len(self._pending)
        if before and unreachable(self._uri) is not None:
            self._try_later()
            return False
        while self._pending and self._send(self._pending[0]):
            del self._pending[0]
        if not self._pending:
            (self._folder / JOURNAL).unlink(missing_ok=True)
            shutil.rmtree(self._folder / "pending", ignore_errors=True)
        elif len(self._pending) < before:
            _write_journal(self._folder, self._pending)
        return not self._pending

    def _send(self, message: Message) -> bool:
        """Send one message; False when the store is away."""
        try:
            send(self._client, self._run_id, message, self._folder)
        except Exception as error:
            if not is_away(error):
                with explained(self._uri):
                    raise
            self._try_later()
            return False
        self._retry_s = _FIRST_RETRY_S
        return True

    def _try_later(self) -> None:
        self._next_try = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)

    def _keep(self, message: Message) -> None:
        if message["do"] == "artifact":
            message = message | {"path": self._copy(Path(message["path"]))}
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(message) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self._pending.append(message)

    def _copy(self, original: Path) -> str:
        """Keep a file as it is now: the run may overwrite it before the store is back."""
        kept = Path("pending") / f"{time.time_ns()}" / original.name
        target = self._folder / kept
        target.parent.mkdir(parents=True)
        if original.is_dir():
            shutil.copytree(original, target)
        else:
            shutil.copy2(original, target)
        return str(kept)


def read_journal(folder: Path) -> list[Message]:
    """Return the kept messages, without a last line that a crash cut short."""
    path = folder / JOURNAL
    if not path.exists():
        return []
    messages: list[Message] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            messages.append(json.loads(line))
        except json.JSONDecodeError:
            break
    _write_journal(folder, messages)  # so that the next line does not continue the torn one
    return messages


def _write_journal(folder: Path, messages: list[Message]) -> None:
    draft = folder / f"{JOURNAL}.new"
    draft.write_text("".join(json.dumps(message) + "\n" for message in messages), encoding="utf-8")
    draft.replace(folder / JOURNAL)
