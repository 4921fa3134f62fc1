"""Small disks, which are soon full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KB = 1024
ROOMY_BYTES = 64 * KB * KB


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """Put a disk of this size at ``folder``; needs the right to mount.

    Raises:
        AssertionError: this process may not mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes // KB}k"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
    )
    assert mounted.returncode == 0, f"a small disk cannot be mounted: {mounted.stderr.decode()}"
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(path: Path) -> None:
    """Write a file until its disk takes no more."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4 * KB)):
            pass


def enlarge(folder: Path, size_bytes: int = ROOMY_BYTES) -> None:
    """Enlarge a small disk."""
    options = f"remount,size={size_bytes // KB}k"
    subprocess.run(["mount", "-o", options, str(folder)], check=True)
