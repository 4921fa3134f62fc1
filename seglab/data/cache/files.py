"""The files of a cache folder: arrays, and JSON that says what they hold and proves it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from seglab.core.documents import parse_json
from seglab.core.errors import UserError

FORMAT = 5
"""Goes up with every change of what a cache holds or how it is made."""
INDEX, SLICES, LABELS, NATIVE_LABELS = "index.json", "slices.npy", "labels.npy", "native_labels.npy"
Json = dict[str, Any]
_NOT_CONTENT = {"digest", "skipped", "remarks", "stamp"}
"""Reasons and remarks may name paths of this machine, stamps times."""


def digest(value: object) -> str:
    """SHA-256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def publish(scratch: Path, name: str, arrays: Sequence[str], content: Json) -> Json:
    """Move arrays of ``scratch`` to the folder above it, with the JSON that describes them.

    The JSON goes first and comes last: without it the arrays count for nothing.

    Returns:
        The JSON: ``content``, ``files`` and ``digest``, which covers what the arrays and
        their description hold and nothing of this machine.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = scratch.parent
    content = content | {"files": {array: _describe(scratch / array) for array in arrays}}
    content["digest"] = _content_digest(content)
    (folder / name).unlink(missing_ok=True)
    for array in arrays:
        (scratch / array).replace(folder / array)
    _write_json(folder / name, content)
    return content


def read_json(path: Path) -> Json:
    """Read a JSON that ``publish`` wrote and make sure that its arrays are as they were.

    An unchanged size and time are proof enough; with another time a file is hashed.

    Raises:
        UserError: names the file that is absent, unreadable or changed.
    """
    try:
        content: Json = parse_json(path.read_text(encoding="utf-8"))
        is_whole = content["digest"] == _content_digest(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "cannot be read") from error
    if not is_whole:
        raise _damaged(path, "has changed since it was written")
    folder, entries = path.parent, content["files"].items()
    touched = [name for name, entry in entries if _is_new(folder / name, entry)]
    if touched:
        with suppress(OSError):  # on a read-only disk files are hashed each time
            _write_json(path, content)
    return content


def _is_new(path: Path, entry: Json) -> bool:
    """Hash a file whose time has changed; note its time, and tell whether that was needed."""
    try:
        stat = path.stat()
        if stat.st_size == entry["bytes"] and stat.st_mtime_ns == entry["mtime_ns"]:
            return False
        found = _describe(path)
    except OSError as error:
        raise _damaged(path, "cannot be read") from error
    if found["sha256"] != entry["sha256"]:
        raise _damaged(path, "has changed since it was written")
    entry["mtime_ns"] = found["mtime_ns"]
    return True


def _describe(path: Path) -> Json:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        stat = os.fstat(file.fileno())
    return {"bytes": stat.st_size, "sha256": found, "mtime_ns": stat.st_mtime_ns}


def _content_digest(content: Json) -> str:
    kept = {key: value for key, value in content.items() if key not in _NOT_CONTENT}
    kept["files"] = {name: entry["sha256"] for name, entry in content["files"].items()}
    return digest(kept)


def _write_json(path: Path, content: Json) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}; remove the folder {path.parent} to build the cache again")
