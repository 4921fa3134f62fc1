"""A password in the address of the server stays in the memory of the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.blackbox.commands import run, write_files
from tests.faults.servers import MlflowServer

SECRET = "s3cr3t-of-anna"


@pytest.mark.slow
def test_nothing_that_a_run_leaves_or_prints_holds_the_password(
    server: MlflowServer, server_folder: Path, phantoms: Path, tmp_path: Path
) -> None:
    write_files(tmp_path, phantoms)
    argv = (tmp_path, "run_experiment.py", "single.yaml", "train.epochs=1")
    own = server.uri.replace("//", f"//anna:{SECRET}@")
    done = run(*argv, MLFLOW_TRACKING_URI=own, KAGGLE_KEY=SECRET).good()
    absent = f"http://anna:{SECRET}@127.0.0.1:1"
    broken = run(*argv, "--fresh", MLFLOW_TRACKING_URI=absent).refused("***@127.0.0.1:1")
    assert SECRET not in done.out + done.err + broken.out + broken.err
    left = [path for place in (tmp_path, server_folder) for path in place.rglob("*")]
    files = [path for path in left if path.is_file()]
    assert any(path.name == "model.json" or path.name == "config.yaml" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
