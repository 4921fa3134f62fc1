"""Command lines run in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY = """\
name: tiny
data: {{source: brats-h5, root: {root}, cache: {cache}, image_size: 64}}
model: {{name: unet, base_channels: 4, depth: 3}}
train: {{epochs: 3, batch_size: 8, threads: 1, device: cpu}}
"""


@pytest.fixture
def tiny(
    tmp_path: Path, phantoms: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An experiment file, in a folder of its own that is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(root=phantoms, cache=shared_cache), encoding="utf-8")
    return path
