"""Download what a run logged, without ever leaving the folder that was asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath

from seglab.core.errors import UserError
from seglab.core.progress import progress
from seglab.tracking.failures import explained
from seglab.tracking.store import Store

RECORD = ".seglab-run"
"""In the folder of a download: the run's id, and below it the files that were fetched whole."""


@dataclass(frozen=True)
class DownloadReport:
    """What now lies in the folder: every wanted file, also those that were there before."""

    run_id: str
    files: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class Artifact:
    """One logged file: its path with forward slashes, its size in bytes."""

    path: str
    size: int


def download(store: Store, run_id: str, out: Path, pattern: str | None = None) -> DownloadReport:
    """Copy the artifacts of ``run_id`` to ``out``, keeping their folders.

    A file that an earlier call fetched and that has its full size is not fetched again,
    so the same call continues a broken download; a file appears only when it is whole.

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
    logged = [found for found in list_artifacts(store, run_id) if found.path != RECORD]
    wanted = [found for found in logged if _matches(found.path, pattern)]
    if not wanted and pattern is not None:
        raise UserError(f"no artifact of run {run_id} matches '{pattern}'")
    with explained(str(out)):
        fetched = _begin(out, run_id)
        targets = {found: safe_target(out, found.path) for found in wanted}
        missing = [
            found
            for found in wanted
            if found.path not in fetched or not _is_whole(targets[found], found.size)
        ]
        for found in progress(missing, "download", unit="file"):
            _fetch(store, run_id, found.path, targets[found])
            with (out / RECORD).open("a", encoding="utf-8") as record:
                record.write(f"\n{found.path}")
    total = sum(target.stat().st_size for target in targets.values())
    return DownloadReport(run_id, tuple(found.path for found in wanted), total)


def _begin(out: Path, run_id: str) -> set[str]:
    """Take the folder for a run, and return which of its files were fetched before.

    Files that lie there without a record may be of any run, however well their sizes fit.

    Raises:
        UserError: the folder is another run's.
    """
    record = out / RECORD
    known = [""]
    if record.is_file() and not record.is_symlink():
        known = record.read_text(encoding="utf-8", errors="replace").split("\n")
    if known[0] == run_id:
        return set(known[1:])
    if known[0]:
        raise UserError(
            f"{out} holds files of run {known[0][:40]}: choose another folder for run {run_id}"
        )
    out.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    with record.open("x", encoding="utf-8") as file:  # follows no link
        file.write(run_id)
    return set()


def list_artifacts(store: Store, run_id: str) -> list[Artifact]:
    """Return every file that the run logged, by path."""
    return sorted(_walk(store, run_id, ""), key=lambda found: found.path)


def _walk(store: Store, run_id: str, folder: str) -> Iterator[Artifact]:
    for entry in store.call(lambda: store.client.list_artifacts(run_id, folder or None)):
        if PurePosixPath(entry.path).parent != PurePosixPath(folder):
            raise UserError(f"artifact '{entry.path}' of run {run_id} is not inside '{folder}'")
        if entry.is_dir:
            yield from _walk(store, run_id, entry.path)
        else:
            yield Artifact(entry.path, int(entry.file_size or 0))


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


def _is_whole(target: Path, size: int) -> bool:
    return target.is_file() and not target.is_symlink() and target.stat().st_size == size


def _fetch(store: Store, run_id: str, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as folder:
        fetched = store.call(lambda: store.client.download_artifacts(run_id, name, folder))
        Path(fetched).replace(target)
