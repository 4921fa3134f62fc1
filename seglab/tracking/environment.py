"""Where a result came from: commit, code, versions, machine."""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from seglab.core.machine import available_cores
from seglab.tracking import tags

PACKAGE = Path(__file__).resolve().parents[1]
RESULT_CODE = ("core/config.py", "core/study.py", "core/search.py", "data", "augment", "models",
               "losses", "losses.py", "learning", "evaluation")  # fmt: skip
"""Files and folders whose code can change a result."""
RESULT_PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "numpy",
                   "opencv-python-headless", "albumentations")  # fmt: skip
"""Packages whose version can change a result."""
OTHER_PACKAGES = ("torchvision", "scipy", "h5py", "nibabel", "pydantic", "mlflow", "optuna")


class GitState(NamedTuple):
    """The checkout that the running code belongs to."""

    commit: str
    dirty: bool
    """Whether a tracked file differs from the commit."""


@cache
def git_state(package: Path = PACKAGE) -> GitState | None:
    """Return commit and dirtiness; None when the package is not part of a git checkout.

    An installed copy inside another repository (a virtual environment) is not taken for that
    repository's code.
    """
    if _git(package, "ls-files", "--error-unmatch", "core/errors.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else GitState(commit, bool(changes))


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def code_hash(package: Path = PACKAGE) -> str:
    """Twelve hex digits over what can change a result: code and versions of packages.

    Of each file in ``RESULT_CODE`` the syntax tree without docstrings counts, so that comments,
    layout and the command line leave the hash as it is.
    """
    digest = hashlib.sha256()
    for name in RESULT_CODE:
        path = package / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(package).as_posix()}\0".encode())
            digest.update(_code(file.read_text(encoding="utf-8")).encode())
    for name, version in sorted(_versions(RESULT_PACKAGES).items()):
        digest.update(f"{name}=={version.partition('+')[0]}\0".encode())
    return digest.hexdigest()[:12]


def _code(source: str) -> str:
    """Dump the syntax tree of ``source`` without docstrings and attribute descriptions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def versions() -> dict[str, str]:
    """Return the versions of Python and of every package that a result depends on."""
    return {"python": platform.python_version()} | _versions(RESULT_PACKAGES + OTHER_PACKAGES)


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
    found = {tags.CODE_HASH: code_hash()}
    state = git_state()
    if state is not None:
        found |= {
            tags.GIT_COMMIT: state.commit,
            tags.GIT_DIRTY: str(state.dirty).lower(),
            tags.COMMIT: state.commit,
        }
    return found


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
