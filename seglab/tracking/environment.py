"""Where a result came from: commit, code, versions, machine."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from seglab.core.machine import available_cores

PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "scipy",
    "h5py",
    "nibabel",
    "tifffile",
    "pydantic",
    "mlflow",
    "optuna",
)
_GIT_S = 10


@dataclass(frozen=True)
class GitState:
    """The checkout that the running code belongs to."""

    commit: str
    dirty: bool
    """Whether a tracked file differs from the commit."""


@cache
def git_state(package: Path = PACKAGE) -> GitState | None:
    """Return commit and dirtiness; None when the package is not part of a git checkout.

    An installed copy inside somebody else's repository (a virtual environment)
    is not taken for that repository's code.
    """
    if _git(package, "ls-files", "--error-unmatch", "core/errors.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else GitState(commit, bool(changes))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def code_hash(package: Path = PACKAGE) -> str:
    """Return twelve hex digits over the names and bytes of the package's source files."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def versions() -> dict[str, str]:
    """Return the versions of Python and of each library that can change a result."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(device: str = "cpu") -> dict[str, str | int]:
    """Describe the machine that computes: system, processor, cores, and the GPU if used."""
    described: dict[str, str | int] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": available_cores(),
        "device": device,
    }
    if device.startswith("cuda"):
        import torch

        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = str(torch.version.cuda)
    return described


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def environment_tags() -> dict[str, str]:
    """Return the tags that say which code ran."""
    tags = {"seglab.code_hash": code_hash()}
    state = git_state()
    if state is not None:
        tags |= {
            "seglab.git_commit": state.commit,
            "seglab.git_dirty": str(state.dirty).lower(),
            "mlflow.source.git.commit": state.commit,
        }
    return tags


def environment_report(device: str = "cpu") -> dict[str, object]:
    """Return what a rerun needs to know, for the artifact ``environment.json``."""
    state = git_state()
    return {
        "code_hash": code_hash(),
        "git_commit": state.commit if state else None,
        "git_dirty": state.dirty if state else None,
        "versions": versions(),
        "machine": machine(device),
    }
