"""Models in files: nothing in them is run, and what is no model is told."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from seglab.core.errors import UserError
from seglab.studies.resolve import open_model
from tests.studies.bright_front import make_bundle


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["weights.pt", "best.ckpt", "best.safetensors", "model.pkl"])
def test_a_pickle_is_refused_and_its_code_not_run(tmp_path: Path, name: str) -> None:
    make_bundle().save(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    checkpoint = tmp_path / name
    checkpoint.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))

    def no_store() -> Any:
        raise AssertionError("a file needs no store")

    with pytest.raises(UserError, match="safetensors"):
        open_model(str(checkpoint), no_store)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    def no_store() -> Any:
        raise AssertionError("a path needs no store")

    for name, reason in ((str(tmp_path), "no model"), ("./absent.safetensors", "no such")):
        with pytest.raises(UserError, match=reason):
            open_model(name, no_store)
    (tmp_path / "model.json").write_text('{"format": 1, "model": "__import__"}')
    with pytest.raises(UserError, match=r"model\.json"):
        open_model(str(tmp_path), no_store)
