"""The files of a cache folder: raw arrays, their digests, and the index that describes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from pydantic import ValidationError

from seglab.core.documents import parse_json
from seglab.core.errors import UserError
from seglab.core.explain import explain
from seglab.core.progress import progress
from seglab.data.cache.index import Index

FORMAT = 4
"""Goes up with every change of what a cache holds or how it is made."""
INDEX = "index.json"
STAMP = "verified.json"
Json = dict[str, Any]
_CHUNK_BYTES = 2**22


class HashedFile:
    """A file written from start to end, with its size and SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self._digest = hashlib.sha256()
        self._file = path.open("wb")

    def write(self, array: np.ndarray[Any, Any]) -> None:
        """Append the array's bytes in C order."""
        # Written, not memory-mapped: a full disk must raise, and a mapping would crash.
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._file.write(data.data)
        self._digest.update(data.data)
        self.bytes += data.size

    def entry(self) -> Json:
        """What the index says of this file."""
        return {"bytes": self.bytes, "sha256": self._digest.hexdigest()}

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def digest(value: object) -> str:
    """SHA-256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_index(folder: Path, content: Json) -> None:
    """Write the index with its own digest, and mark the files as verified.

    ``data_hash`` covers what the arrays and their description hold, and nothing of
    this machine: the same data and settings give it everywhere.
    """
    index = {**content, "data_hash": _data_hash(content)}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    _write_stamp(folder, Index.model_validate(index))


def read_index(folder: Path) -> Index:
    """Read the index and make sure that it and all files are as they were written.

    Files are hashed once; afterwards an unchanged size and time are proof enough.

    Raises:
        UserError: names the file that is absent, unreadable or changed.
    """
    path = folder / INDEX
    try:
        said: Json = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, "cannot be read") from error
    if not isinstance(said, dict) or said.get("data_hash") != _data_hash(said):
        raise _damaged(path, "has changed since it was written")
    if said.get("format") != FORMAT:
        raise _damaged(path, f"has format {said.get('format')}, this version reads {FORMAT}")
    try:
        index = Index.model_validate(said)
    except ValidationError as error:
        raise _damaged(path, f"cannot be true: {explain(error, Index)}") from error
    _verify(folder, index)
    return index


def _data_hash(index: Json) -> str:
    # Reasons for skipping name paths of this machine.
    return digest({k: v for k, v in index.items() if k not in ("data_hash", "skipped")})


def _verify(folder: Path, index: Index) -> None:
    if _read_stamp(folder) == _stamp(folder, index):
        return
    for name, entry in progress(index.files.items(), "verifying the cache", unit="file"):
        if _file_digest(folder / name) != entry.sha256:
            raise _damaged(folder / name, "has changed since it was written")
    _write_stamp(folder, index)


def _stamp(folder: Path, index: Index) -> Json:
    """Size and times of every file; the times also tell a file that was put back."""
    stamps = {}
    for name, entry in index.files.items():
        try:
            stat = (folder / name).stat()
        except OSError as error:
            raise _damaged(folder / name, "cannot be read") from error
        if stat.st_size != entry.bytes:
            raise _damaged(folder / name, "has changed since it was written")
        stamps[name] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    return {"data_hash": index.data_hash, "files": stamps}


def _read_stamp(folder: Path) -> Any:
    try:
        return parse_json((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_stamp(folder: Path, index: Index) -> None:
    try:
        (folder / STAMP).write_text(json.dumps(_stamp(folder, index)), encoding="utf-8")
    except OSError:
        # A cache on a read-only disk is verified each time it is opened.
        return


def _file_digest(path: Path) -> str:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                found.update(chunk)
    except OSError as error:
        raise _damaged(path, "cannot be read") from error
    return found.hexdigest()


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}; remove the folder {path.parent} to build the cache again")
