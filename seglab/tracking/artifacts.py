"""Download what a run logged, without ever leaving the folder that was asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath

from seglab.core.errors import UserError
from seglab.core.machine import progress
from seglab.tracking.errors import as_user_error
from seglab.tracking.store import Store

RECORD = ".seglab-run"
"""File in the folder of a download: the id of the run whose files these are."""


@dataclass(frozen=True)
class DownloadReport:
    """What now lies in the folder."""

    run_id: str
    files: tuple[str, ...]
    bytes: int


def download(store: Store, run_id: str, out: Path, pattern: str | None = None) -> DownloadReport:
    """Copy the artifacts of ``run_id`` to ``out``, keeping their folders.

    Each file appears only when it is whole; the same call again replaces what is there.

    Args:
        store: where the run is.
        run_id: the run; its first characters do.
        out: made if absent.
        pattern: shell pattern over the whole path or the file's name; None takes all.

    Raises:
        UserError: no such run, nothing matches, an artifact's name leads out of ``out``;
            ``out`` holds another run's files or cannot be written.
    """
    run_id = store.find_run(run_id).run_id
    wanted = [name for name in list_artifacts(store, run_id) if _matches(name, pattern)]
    if not wanted and pattern is not None:
        raise UserError(f"no artifact of run {run_id} matches '{pattern}'")
    with as_user_error(str(out)):
        _reserve(out, run_id)
        targets = {name: safe_target(out, name) for name in wanted}
        for name, target in progress(targets.items(), "download", unit="file"):
            _fetch(store, run_id, name, target)
    total = sum(target.stat().st_size for target in targets.values())
    return DownloadReport(run_id, tuple(wanted), total)


def _reserve(out: Path, run_id: str) -> None:
    """Mark ``out`` as the folder of a run.

    Raises:
        UserError: it is another run's.
    """
    record = out / RECORD
    known = ""
    if record.is_file() and not record.is_symlink():
        known = record.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    if known == run_id:
        return
    if known:
        raise UserError(
            f"{out} holds files of run {known[:40]}: choose another folder for run {run_id}"
        )
    out.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    with record.open("x", encoding="utf-8") as file:  # follows no link
        file.write(run_id)


def list_artifacts(store: Store, run_id: str) -> list[str]:
    """Return the path of every file that the run logged, sorted."""
    return sorted(name for name in _walk(store, run_id, "") if name != RECORD)


def _walk(store: Store, run_id: str, folder: str) -> Iterator[str]:
    for entry in store.call(lambda: store.client.list_artifacts(run_id, folder or None)):
        if PurePosixPath(entry.path).parent != PurePosixPath(folder):
            raise UserError(f"artifact '{entry.path}' of run {run_id} is not inside '{folder}'")
        if entry.is_dir:
            yield from _walk(store, run_id, entry.path)
        else:
            yield str(entry.path)


def safe_target(out: Path, name: str) -> Path:
    """Return where the artifact ``name`` goes below ``out``.

    Raises:
        UserError: the name is absolute, has ``..``, a drive or a control character, or
            a link in ``out`` would lead outside.
    """
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    odd = any(ord(letter) < 32 for letter in name) or "\\" in name
    if not parts or odd or ".." in parts or name.startswith("/") or windows.drive:
        raise UserError(f"artifact {name!r} has a name that is not safe to write")
    target = out.joinpath(*parts)
    if not target.parent.resolve().is_relative_to(out.resolve()):
        raise UserError(f"artifact '{name}' would be written outside {out}: {target.parent} links")
    return target


def _matches(path: str, pattern: str | None) -> bool:
    return (
        pattern is None
        or fnmatchcase(path, pattern)
        or fnmatchcase(PurePosixPath(path).name, pattern)
    )


def _fetch(store: Store, run_id: str, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as folder:
        fetched = store.call(lambda: store.client.download_artifacts(run_id, name, folder))
        Path(fetched).replace(target)
