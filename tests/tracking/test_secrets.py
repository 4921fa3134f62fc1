"""A password in the address of the server stays in the memory of the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.servers import MlflowServer

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s3cr3t-of-anna"
TINY = """\
name: tiny
data: {{source: brats-h5, root: {root}, cache: {cache}, image_size: 64}}
model: {{name: unet, base_channels: 4, depth: 3}}
train: {{epochs: 1, batch_size: 8, threads: 1, device: cpu}}
"""


def run(folder: Path, uri: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "KAGGLE_KEY": SECRET}
    command = [sys.executable, str(ROOT / "run_experiment.py"), "tiny.yaml", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_nothing_that_a_run_leaves_or_prints_holds_the_password(
    server: MlflowServer, server_folder: Path, phantoms: Path, shared_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.format(root=phantoms, cache=shared_cache))
    address = server.uri.removeprefix("http://")
    done = run(tmp_path, f"http://anna:{SECRET}@{address}")
    assert done.returncode == 0, done.stderr
    broken = run(tmp_path, f"http://anna:{SECRET}@127.0.0.1:1", "--fresh")
    assert broken.returncode == 2
    assert "***@127.0.0.1:1" in broken.stderr
    printed = [done.stdout, done.stderr, broken.stdout, broken.stderr]
    assert not [text for text in printed if SECRET in text]
    left = [path for place in (tmp_path, server_folder) for path in place.rglob("*")]
    files = [path for path in left if path.is_file()]
    assert any(path.name == "model.json" or path.name == "config.yaml" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
