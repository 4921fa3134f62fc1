"""Whether another process holds a lock file."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock file at ``path``; False where there is none."""
    if not path.exists():
        return False
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # a folder that may only be read
        return False
    lock.release()
    return False
