"""Where a result came from: commit, code, versions, machine."""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
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
    """The checkout of the running code; dirty where a tracked file outside mlruns was changed."""

    commit: str
    dirty: bool


@cache
def git_state(package: Path = PACKAGE) -> GitState | None:
    """Return the state of the checkout; None where git does not track the package.

    A copy in a virtual environment inside another repository is not that repository's code.
    """
    if _git(package, "ls-files", "--error-unmatch", "core/errors.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    status = ("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/mlruns")
    changes = _git(package, *status)
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
    """Twelve hex digits over the code and the packages that can change a result.

    Of each file the syntax tree without docstrings counts: comments and layout do not.
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
    """Versions of those of the packages that are installed."""
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def changed_packages(versions: Mapping[str, str]) -> list[str]:
    """Say which packages that can change a result are not those of ``versions`` here."""
    here, told = _versions(RESULT_PACKAGES), []
    for name in RESULT_PACKAGES:
        old, new = (found.get(name, "none") for found in (versions, here))
        if old.partition("+")[0] != new.partition("+")[0]:
            told.append(f"{name} {old} instead of {new}")
    return told


def machine(device: str = "cpu") -> dict[str, str | int]:
    """Describe this machine: system, processor, cores, and the GPU if ``device`` is one."""
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
    found, state = {tags.CODE_HASH: code_hash()}, git_state()
    if state is not None:
        found |= {tags.GIT_COMMIT: state.commit, tags.COMMIT: state.commit}
        found[tags.GIT_DIRTY] = str(state.dirty).lower()
    return found


def environment_report(device: str = "cpu") -> dict[str, object]:
    """Return what a rerun needs to know, for the artifact ``environment.json``."""
    state = git_state()
    return {
        "code_hash": code_hash(),
        "git_commit": state.commit if state else None,
        "git_dirty": state.dirty if state else None,
        "versions": {"python": platform.python_version()}
        | _versions(RESULT_PACKAGES + OTHER_PACKAGES),
        "machine": machine(device),
    }
