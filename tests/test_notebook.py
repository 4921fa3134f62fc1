"""The notebook, run from top to bottom on phantoms, and again in a second session."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seglab.tracking.connect import open_store

ROOT = Path(__file__).resolve().parents[1]
CELLS = json.loads((ROOT / "docs" / "kaggle.ipynb").read_text(encoding="utf-8"))["cells"]
SMALL = (
    "data.image_size=64 data.context=0 split.fractions=[0.4,0.3,0.3] model.base_channels=4 "
    "train.epochs=1 train.samples_per_epoch=16 train.batch_size=4 train.threads=1 seeds=[0]"
)
SHELL = """\
import subprocess, sys, types
display = types.ModuleType("IPython.display")
display.HTML = lambda text: open("shown.html", "w").write(text)
sys.modules |= {"IPython": types.ModuleType("IPython"), "IPython.display": display}
def shell(line):
    print(f"status {subprocess.run(line, shell=True).returncode}", flush=True)
"""


def run_all(folder: Path, inputs: Path) -> str:
    """Run the cells in their order as IPython does; returns what they print."""
    folder.mkdir()
    text = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code")
    text = re.sub(r"(?m)^( *)!(.*)$", r"\1shell(f'''\2''')", text)
    (folder / "cells.py").write_text(SHELL + text)
    notebook = {"SEGLAB_INPUT": str(inputs), "SEGLAB_SIZE": SMALL, "PYTHONPATH": str(ROOT)}
    notebook |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    ended = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=folder,
        env=kept | notebook,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    return ended.stdout


def test_no_output_is_stored() -> None:
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert code
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_the_runs_of_all_sessions_are_copied_and_not_the_empty_folder_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGLAB_INPUT", "input")
    sizes = {"a/mlruns/.gitkeep": 0, "b/mlruns/mlflow.db": 5, "c/mlruns/mlflow.db": 9}
    for name, size in {**sizes, "brats2020-training-data/x.h5": 1}.items():
        (path := tmp_path / "input" / name).parent.mkdir(parents=True)
        path.write_bytes(bytes(size))
    (code,) = ("".join(cell["source"]) for cell in CELLS if "def find" in "".join(cell["source"]))
    found = {"os": os, "shutil": shutil, "Path": Path}
    exec(code.replace("!{", "pass # {"), found)
    assert found["saved"] == Path("input/c/mlruns")
    assert found["ROOT"] == Path("input/brats2020-training-data")
    assert Path("mlruns/mlflow.db").stat().st_size == 9


@pytest.mark.slow
def test_from_top_to_bottom_and_after_the_end_of_the_session(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = tmp_path / "input"
    shutil.copytree(phantoms, inputs / "datasets" / "awsaf49" / "brats2020-training-data")
    read_only = [inputs, *(path for path in inputs.rglob("*") if path.is_dir())]
    for path in read_only:
        path.chmod(0o555)
    told = run_all(tmp_path / "first", inputs)
    assert re.findall(r"status (\d+)", told) == ["0"] * 5, told[-3000:]
    assert "one run after the other" in told
    assert "Synthetic data" in (tmp_path / "first" / "shown.html").read_text()

    for path in read_only:
        path.chmod(0o755)
    (inputs / "notebooks/me/first").mkdir(parents=True)
    shutil.move(tmp_path / "first" / "mlruns", inputs / "notebooks" / "me" / "first" / "mlruns")
    told = run_all(tmp_path / "second", inputs)
    assert not re.search(r"epoch +\d+/", told), "nothing is trained twice"
    assert re.findall(r"status (\d+)", told) == ["0", "0", "0", "2", "0"], "the test opens once"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    kinds = [run.tags["seglab.kind"] for run in open_store(tmp_path / "second/mlruns").find_runs()]
    assert sorted(kinds) == ["ablation", "promotion", *["train"] * 5]
