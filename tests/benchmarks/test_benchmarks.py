"""Every stage runs and gives finite figures; speed is not tested."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import benchmarks.stages as stages
from benchmarks.__main__ import Row, choose, draw_time, main, run_stages
from benchmarks.stage import STAGES, TRACKING, Bench, Measurement, compare, in_process
from seglab.core.errors import UserError

ROW = Row(STAGES["epoch"], Measurement(90.0, 100.0, 0.9, split={"forward": 1.0, "backward": 2.0}))


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench(share=0.005) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, found in STAGES.items() if found.device == "cpu"])
def test_figures_are_finite_and_positive(name: str, bench: Bench) -> None:
    (row,) = run_stages([STAGES[name]], bench)
    assert row.measured is not None, row.skipped
    figures = (row.measured.ours, row.measured.reference, row.measured.ratio)
    assert all(figure is not None and 0 < figure < math.inf for figure in figures)
    assert row.to_json()["met"] is not None


@pytest.mark.slow
def test_a_gpu_training_is_measured_with_its_shares(bench: Bench) -> None:
    """On torch's CPU device: the analysis is complete."""
    measured = stages.measure_gpu(bench, {"name": "unet", "base_channels": 2}, 32)
    assert 0 < measured.ours < math.inf
    for part in ("of the card's bf16 rate", "limited by", "batches"):
        assert part in measured.note


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gpu-unet", "gpu-resnet34"])
def test_every_stage_runs_on_a_gpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with Bench("cuda", share=0.01) as bench:
        assert 0 < STAGES[name].measure(bench).ours < math.inf


def test_unequal_scores_are_no_comparison(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.usual, "monai_scores", lambda *_: {"dice": 0.5})
    with pytest.raises(ArithmeticError, match="dice"):
        stages.validation(bench)


def test_without_monai_its_stages_are_skipped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    (row,) = run_stages([STAGES["validation"]], bench)
    assert row.to_json()["met"] is None
    assert "MONAI is not installed" in str(row)


def test_the_ratio_is_the_median_over_pairs() -> None:
    measured = compare(10, [1.0, 2.0, 1.0], [4.0, 10.0, 6.0])
    assert (measured.ours, measured.reference, measured.ratio) == (10.0, 10 / 6, 5.0)


def test_stages_are_chosen_by_name_and_group_and_what_is_not_there_ends_with_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [found.name for found in choose(["memory", "prepare"], "cpu")]
    assert chosen == ["prepare-h5", "prepare-nifti", "memory"]
    with pytest.raises(UserError, match="none of them is measured on cuda"):
        choose(["memory"], "cuda")
    assert main(["--stages", "memry"]) == 2
    assert "did you mean 'memory'?" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_json_and_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.__main__.run_stages", lambda chosen, bench: iter([ROW]))
    assert main(["--stages", "epoch", "--json", "--out", str(tmp_path / "new")]) == 0
    streams = capsys.readouterr()
    printed = json.loads(streams.out)
    assert {"processor", "cores", "threads", "device", "precision"} <= printed["machine"].keys()
    (row,) = printed["stages"]
    wanted = {"stage": "epoch", "ours": 90.0, "reference": 100.0, "ratio": 0.9, "target": 0.9}
    assert row.items() >= {**wanted, "unit": "images/s", "met": True, "skipped": None}.items()
    assert "1 of 1 targets met" in streams.err
    assert "epoch 90 100 images/s 0.9 at least 0.9× ok" in " ".join(streams.err.split())
    with Image.open(tmp_path / "new" / "time.png") as picture:
        assert picture.width > 500
    assert draw_time([], tmp_path) is None


def test_runs_are_logged_in_the_scratch_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKING, "http://server:5000")
    with Bench() as bench:
        assert str(bench.scratch) in os.environ[TRACKING]
    assert os.environ[TRACKING] == "http://server:5000"
    assert not bench.scratch.exists()


def _settings() -> tuple[int, str]:
    return os.getpid(), os.environ.get("OMP_WAIT_POLICY", "the runtime's own")


def _make() -> Callable[[], tuple[int, str]]:
    return _settings


def test_a_reference_runs_in_one_other_process_without_our_settings() -> None:
    with in_process(_make) as call:
        first, second = call(), call()
    assert first == second
    assert first[0] != os.getpid()
    assert first[1] == "the runtime's own"
