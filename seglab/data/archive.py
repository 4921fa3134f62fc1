"""Unpacks a zip that nobody vouches for: nothing outside the target, nothing oversized."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from seglab.core.errors import UserError
from seglab.core.progress import progress

SPARE_BYTES = 256 << 20
"""Free space to leave on the disk."""


class Damaged(Exception):
    """The archive is not a readable zip, or a member does not match its checksum."""


@dataclass(frozen=True)
class Limits:
    """What an archive may ask for."""

    bytes: int = 64 << 30
    files: int = 1_000_000
    ratio: int = 100
    """Unpacked to packed size of all members together; a bomb has 1,000 and more."""


@dataclass(frozen=True)
class Unpacked:
    """What lies in the target now."""

    files: int
    bytes: int


def unpack(archive: Path, out: Path, limits: Limits | None = None) -> Unpacked:
    """Unpack ``archive`` into ``out``; checks every name and size before it writes anything.

    A file that is already there with the right size and checksum is kept, so that an
    interrupted call can be repeated. Each file appears under its name only when complete.

    Raises:
        Damaged: not a zip, or a checksum that does not match.
        UserError: a name that leads outside ``out``, a link, an encrypted member, sizes
            beyond ``limits``, or not enough space.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.filename.endswith("/")]
            _refuse_unsafe(archive, members, limits or Limits())
            out.mkdir(parents=True, exist_ok=True)
            _refuse_full_disk(out, members)
            for member in progress(members, "unpack", len(members), unit="file"):
                _extract(opened, member, out)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise Damaged(str(error)) from error
    return Unpacked(len(members), sum(member.file_size for member in members))


def _refuse_unsafe(archive: Path, members: list[zipfile.ZipInfo], limits: Limits) -> None:
    seen: set[str] = set()
    for member in members:
        reason = _objection(member)
        if member.filename.casefold() in seen:
            reason = "is there twice"
        if reason:
            raise UserError(f"{archive} is not unpacked: its member {member.filename!r} {reason}")
        seen.add(member.filename.casefold())
    size = sum(member.file_size for member in members)
    # Members of a bomb may share their packed bytes.
    packed = min(sum(member.compress_size for member in members), archive.stat().st_size)
    if len(members) > limits.files or size > limits.bytes or size > limits.ratio * (packed + 1024):
        raise UserError(
            f"{archive} is not unpacked: {len(members):,} files of {size:,} bytes from "
            f"{packed:,} are more than the {limits.files:,} files, {limits.bytes:,} bytes and "
            f"{limits.ratio}-fold growth allowed"
        )


def _objection(member: zipfile.ZipInfo) -> str | None:
    # The name as the archive has it: zipfile cuts it at a NUL and may turn separators.
    name = member.orig_filename
    windows = PureWindowsPath(name)
    if windows.drive or windows.root or ".." in windows.parts:
        return "leads outside the folder"
    if "\0" in name or "\\" in name or not PurePosixPath(name).parts:
        return "has a malformed name"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link or a device"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in another way than zip's own"
    return None


def _refuse_full_disk(out: Path, members: list[zipfile.ZipInfo]) -> None:
    missing = sum(member.file_size for member in members if not (out / member.filename).is_file())
    free = shutil.disk_usage(out).free
    if missing + SPARE_BYTES > free:
        raise UserError(
            f"{out} has {free / 1e9:.1f} GB free, unpacking needs {missing / 1e9:.1f} GB more"
        )


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, out: Path) -> None:
    path = out / member.filename
    if not path.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{path} is behind a link that leads outside {out}: remove the link")
    if path.is_file() and path.stat().st_size == member.file_size and _crc(path) == member.CRC:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with opened.open(member) as packed, part.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _crc(path: Path) -> int:
    return zlib.crc32(path.read_bytes())
