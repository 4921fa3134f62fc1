"""The code in docs/deploy.md does what the page says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from seglab.data.cache import CacheSettings
from seglab.learning.bundle import ModelBundle
from seglab.learning.onnx import export_onnx
from seglab.learning.operating_point import OperatingPoint
from seglab.studies.prediction import predict
from seglab.tracking.artifacts import register_champion
from seglab.tracking.connect import open_store
from seglab.tracking.run import start_run
from tests.faults.servers import free_port
from tests.learning.bundles import make_bundle

PAGE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
STARTS_WITHIN_S = 120


def block(language: str, word: str) -> str:
    """The one block of code of the page that holds a word."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [one for one in blocks if word in one]
    return found


def run_python(code: str, *arguments: Path) -> None:
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)


def write_scan(path: Path, codes: str = "LPS") -> Path:
    """A lopsided head in a frame that is not square, stored along these axes."""
    x, y, z = np.mgrid[0:60, 0:70, 0:6]
    noise = np.random.default_rng(0).integers(200, 900, x.shape)
    head = ((x - 27) / 21) ** 2 + ((y - 36) / 26) ** 2 < 1
    values = np.where(head & (z > 0), noise + 8 * x, 0).astype(np.int16)
    scan = nib.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1]))
    there = nib.orientations.axcodes2ornt(tuple(codes))
    turn = nib.orientations.ornt_transform(nib.io_orientation(scan.affine), there)
    nib.save(scan.as_reoriented(turn), path)
    return path


def of_brain(
    upright: bool = False, context: int = 0, shape: tuple[int, int] = (48, 48)
) -> ModelBundle:
    """A network of random weights on 48 × 32 px around the brain of a frame of 50."""
    settings = CacheSettings(50, "brain", "zscore", "auto")
    card = {"settings": settings, "shape": shape, "point": OperatingPoint(0.5)}
    return make_bundle("flair", context=context, upright=upright, target="whole", **card)


def in_world(path: Path) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


@pytest.mark.parametrize(
    ("codes", "upright", "context"), [("LPS", False, 1), ("RAS", False, 0), ("SAR", True, 2)]
)
def test_the_onnx_example_gives_the_mask_of_predict(
    tmp_path: Path, codes: str, upright: bool, context: int
) -> None:
    scan, bundle = write_scan(tmp_path / "case_flair.nii.gz", codes), of_brain(upright, context)
    export_onnx(bundle, tmp_path / "model.onnx")
    code = block("python", "onnxruntime")
    run_python(code, tmp_path / "model.onnx", scan, tmp_path / "mask.nii.gz")
    (one,) = predict(bundle, [scan], tmp_path / "out").outputs
    expected, found = in_world(one.mask), in_world(tmp_path / "mask.nii.gz")
    assert 0.02 < expected.mean() < 0.9
    assert np.array_equal(found, expected)
    assert np.array_equal(nib.load(tmp_path / "mask.nii.gz").affine, nib.load(scan).affine)


def test_the_onnx_example_refuses_a_brain_that_does_not_fit(tmp_path: Path) -> None:
    scan, model = write_scan(tmp_path / "case_flair.nii.gz"), tmp_path / "model.onnx"
    export_onnx(of_brain(shape=(48, 32)), model)
    command = [
        sys.executable,
        "-c",
        block("python", "onnxruntime"),
        model,
        scan,
        tmp_path / "m.nii",
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    told = f"{scan}: the brain is larger than the 45 pixels that the file takes"
    assert ended.stderr.splitlines() == [told]


@contextmanager
def served(folder: Path, port: int) -> Iterator[None]:
    """Run the page's shell lines until they answer; the environment is this one."""
    lines = block("sh", "models serve").replace("NAME", "test").replace("5001", str(port))
    assert lines.startswith(". .venv/bin/activate\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    lines = lines.partition("\n")[2]
    log = (folder / "served.log").open("w")
    process = subprocess.Popen(
        ["bash", "-c", lines],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        for _ in range(STARTS_WITHIN_S):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping")
                break
            except OSError:
                assert process.poll() is None, (folder / "served.log").read_text()[-2000:]
                time.sleep(1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        log.close()


@pytest.mark.slow
def test_the_model_is_served_and_asked_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    bundle, store = of_brain(), open_store(tmp_path / "mlruns")
    with start_run(store, "test", "promotion", {"seglab.kind": "promotion"}) as log:
        example = np.random.default_rng(0).uniform(0, 900, (2, 64, 64)).astype(np.float32)
        register_champion(store, log, bundle, example, "test", {})
    scan, mask = write_scan(tmp_path / "scan.nii.gz"), tmp_path / "mask.nii.gz"
    port = free_port()
    with served(tmp_path, port):
        run_python(block("python", "invocations").replace("5001", str(port)), scan, mask)
    slices = np.moveaxis(nib.load(scan).get_fdata(dtype=np.float32), -1, 0)
    found = np.moveaxis(np.asarray(nib.load(mask).dataobj), -1, 0)
    assert found.any()
    assert np.array_equal(found, bundle.predict(slices))
