"""Imports point one way, and few files know MLflow and Optuna."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "seglab"
LAYER = {
    "core": 0,
    "data": 1,
    "augment": 1,
    "models": 1,
    "losses": 1,
    "evaluation": 1,
    "learning": 2,
    "tracking": 3,
    "figures": 3,
    "studies": 4,
    "cli": 6,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module named by an import statement, inside functions too, but not for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_that_import(*modules: str) -> set[str]:
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name == m or name.startswith(f"{m}.") for name in imports(path) for m in modules)
    }


def test_every_package_has_a_layer() -> None:
    packages = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert packages | {"losses"} == LAYER.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own not in LAYER:
        return  # __init__ and __main__
    for module in imports(path):
        package, _, rest = module.partition(".")
        other = rest.split(".")[0]
        if package == "seglab" and other in LAYER:
            assert other == own or LAYER[other] <= LAYER[own], module


def test_only_tracking_knows_mlflow() -> None:
    users = files_that_import("mlflow")
    assert users
    assert all(name.startswith("tracking/") for name in users), users


def test_only_search_and_queue_know_optuna() -> None:
    known = ("studies/search/", "studies/queue.py", "studies/ablation.py")
    assert all(name.startswith(known) for name in files_that_import("optuna"))
