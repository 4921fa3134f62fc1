"""Every stage runs and gives finite figures; speed is not tested."""

from __future__ import annotations

import builtins
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import benchmarks.stages as stages
from benchmarks.__main__ import Row, choose, draw_time, main, run_stages
from benchmarks.stage import (
    STAGES,
    TRACKING,
    Bench,
    Measurement,
    compare,
    in_process,
    in_turn,
    with_split,
)
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


def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_unequal_scores_are_no_comparison(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.usual, "monai_scores", lambda *_: {"dice": 0.5})
    with pytest.raises(ArithmeticError, match="dice"):
        stages.validation(bench)


def test_without_monai_its_stages_are_skipped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "monai":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    (row,) = run_stages([STAGES["validation"]], bench)
    assert row.to_json()["met"] is None
    assert "MONAI is not installed" in str(row)


def test_the_ratio_is_the_median_over_pairs() -> None:
    measured = compare(10, [1.0, 2.0, 1.0], [4.0, 10.0, 6.0])
    assert (measured.ours, measured.reference, measured.ratio) == (10.0, 10 / 6, 5.0)


def test_the_order_turns_round_with_every_round() -> None:
    called: list[str] = []
    contestants = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = in_turn(contestants, 3, warm_up=False)
    assert "".join(called) == "abbaab"
    assert [len(seconds[name]) for name in "ab"] == [3, 3]


def test_names_and_groups_choose_stages_in_the_order_of_the_table() -> None:
    assert [found.name for found in choose(["memory", "prepare"], "cpu")] == [
        *("prepare-h5", "prepare-nifti", "memory"),
    ]
    with pytest.raises(UserError, match="none of them is measured on cuda"):
        choose(["memory"], "cuda")


def test_a_bad_name_ends_with_status_2_and_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stages", "memry"]) == 2
    assert "did you mean 'memory'?" in capsys.readouterr().err


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


def test_the_split_adds_up_to_the_time_of_the_call() -> None:
    split = with_split(Measurement(1.0), lambda: time.sleep(0.2)).split
    assert list(split) == ["the rest"]
    assert split["the rest"] == pytest.approx(0.2, abs=0.15)


def _settings() -> tuple[int, str]:
    return os.getpid(), os.environ.get("OMP_WAIT_POLICY", "the runtime's own")


def _make() -> Any:
    return _settings


def test_a_reference_runs_in_one_other_process_without_our_settings() -> None:
    with in_process(_make) as call:
        first, second = call(), call()
    assert first == second
    assert first[0] != os.getpid()
    assert first[1] == "the runtime's own"
