"""The test part of a split has one door, and one hand on it."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "seglab"
SPLITS, SEAL, PROMOTION = "data/splits.py", "studies/sealed_test.py", "studies/promotion.py"
COUNTS_ONLY = {"studies/plan.py"}
"""Says how many test patients there are."""
HIDES = {"data/sealed.py"}
"""Needs the names to take the patients out of reach."""
OPENS_CACHES = {"data/open.py", "cli/data.py", SEAL}
"""Who may have a cache that is not sealed: to divide and seal it, to fill it, to unseal it."""


def trees() -> dict[str, ast.Module]:
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def reads_test_part(tree: ast.Module) -> bool:
    """Any attribute called ``test``, by its name, through ``getattr`` or in a dictionary."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and getattr(node.slice, "value", "") == "test":
            return True
        if isinstance(node, ast.Attribute) and node.attr == "test":
            return True
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            return any(isinstance(a, ast.Constant) and a.value == "test" for a in node.args)
    return False


def names_used(tree: ast.Module) -> set[str]:
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return imported | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_only_the_seal_reads_the_test_part() -> None:
    readers = {name for name, tree in trees().items() if reads_test_part(tree)}
    assert SEAL in readers
    assert readers <= {SPLITS, SEAL} | COUNTS_ONLY | HIDES


def test_only_promotion_opens_the_seal() -> None:
    found = trees()
    users = {name for name, tree in found.items() if "open_test" in names_used(tree)}
    assert users == {PROMOTION}


def test_only_the_seal_makes_and_uses_the_key() -> None:
    found = trees()
    calls = {
        name: {
            getattr(node.func, "id", "") for node in ast.walk(tree) if isinstance(node, ast.Call)
        }
        for name, tree in found.items()
    }
    assert {name for name, called in calls.items() if "OpenedTest" in called} == {SEAL}
    users = {name for name, tree in found.items() if "unseal" in names_used(tree)}
    assert users == {PROMOTION}


def test_no_other_room_opens_an_unsealed_cache() -> None:
    opening = {"open_cache", "fill_cache", "prepare"}
    openers = {
        name
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and opening & {alias.name for alias in node.names}
    }
    assert openers == OPENS_CACHES


def test_a_new_reader_would_be_caught() -> None:
    for code in (
        "x = data.split.test",
        "getattr(split, 'test')",
        "split.to_dict()['test']",
        "for p in split.test: pass",
    ):
        assert reads_test_part(ast.parse(code))
    assert not reads_test_part(ast.parse("x = split.train"))
    assert "open_test" in names_used(ast.parse("from seglab.studies.x import open_test as o"))
