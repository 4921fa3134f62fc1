"""Choosing stages, timing them in turn, and what the reader gets."""

from __future__ import annotations

import builtins
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.material import TRACKING, Material
from benchmarks.picture import draw_time
from benchmarks.report import describe, figure, summary
from benchmarks.run import Row, run_stages
from benchmarks.split import split_of
from benchmarks.stage import STAGES, Goal, Measurement, choose, compare_rates
from seglab.core.errors import UserError

ROW = Row(STAGES["epoch"], Measurement(90.0, 100.0, 0.9, split={"forward": 1.0, "backward": 2.0}))


def test_the_ratio_is_the_median_over_pairs() -> None:
    measured = compare_rates(10, [1.0, 2.0, 1.0], [4.0, 10.0, 6.0])
    assert (measured.ours, measured.reference) == (10.0, 10 / 6)
    assert measured.ratio == statistics.median([4.0, 5.0, 6.0])


@pytest.mark.parametrize(
    ("goal", "text", "met"),
    [
        (Goal(4), "≥ 4×", False),
        (Goal(3, at_most=True), "≤ 3×", False),
        (Goal(1_000, at_most=True, unit="MB"), "≤ 1,000 MB", True),
        (Goal(3), "≥ 3×", True),
    ],
)
def test_goals(goal: Goal, text: str, met: bool) -> None:
    assert str(goal) == text
    assert goal.met(Measurement(500.0, 100.0, 3.5)) is met
    assert Goal(3).met(Measurement(500.0)) is None


def test_groups_and_names_choose_stages_in_the_order_of_the_table() -> None:
    names = [stage.name for stage in choose(["memory", "prepare"], "cpu")]
    assert names == ["prepare-h5", "prepare-nifti", "prepare-all", "memory"]
    assert [stage.name for stage in choose(["batches"], "cpu")] == ["batches"]
    assert len(choose([], "cpu")) == sum(stage.device == "cpu" for stage in STAGES.values())


def test_stages_of_another_device_are_refused() -> None:
    with pytest.raises(UserError, match="none of them is measured on cuda"):
        choose(["report"], "cuda")


def test_a_bad_name_ends_with_status_2_and_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stages", "reprot"]) == 2
    assert "did you mean 'report'?" in capsys.readouterr().err


def test_data_and_source_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "x"]) == 2
    assert "--source" in capsys.readouterr().err


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("benchmarks.run.run_stages", lambda stages, material: iter([ROW]))
    assert main(["--stages", "epoch", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"processor", "cores", "threads", "device", "precision"} <= printed["machine"].keys()
    (row,) = printed["stages"]
    wanted = {"stage": "epoch", "ours": 90.0, "reference": 100.0, "ratio": 0.9, "target": 0.88}
    assert row.items() >= {**wanted, "unit": "images/s", "met": True, "skipped": None}.items()


def test_without_monai_its_stages_are_skipped(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "monai":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    (row,) = run_stages([STAGES["validation"]], material)
    assert row.met is None
    assert "MONAI is not installed" in describe(row)


def test_the_table_names_figures_goal_and_meaning() -> None:
    first, second = describe(ROW).splitlines()[:2]
    assert first.split() == ["epoch", "90", "100", "images/s", "0.9×", "≥", "0.88×", "ok"]
    assert second.strip() == STAGES["epoch"].meaning


def test_the_last_line_names_what_falls_short_and_what_was_skipped() -> None:
    short = Row(STAGES["report"], Measurement(1.0, 1.0, 2.0))
    skipped = Row(STAGES["validation"], None, "MONAI is not installed")
    line = summary([ROW, short, skipped], 90)
    assert line.startswith("1 of 2 targets met; short: report; skipped: validation;")
    assert "1.5 minutes" in line


@pytest.mark.parametrize(("value", "text"), [(12_345.6, "12,346"), (0.1234, "0.123"), (None, "–")])
def test_figures(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_runs_are_logged_in_the_scratch_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKING, "http://server:5000")
    with Material() as material:
        assert str(material.scratch) in os.environ[TRACKING]
    assert os.environ[TRACKING] == "http://server:5000"
    assert not material.scratch.exists()


def test_split_adds_up_to_the_time_of_the_call() -> None:
    started = time.perf_counter()
    split = split_of(lambda: time.sleep(0.1))
    assert 0.1 <= sum(split.values()) <= time.perf_counter() - started
    assert list(split) == ["the rest"]


def test_the_picture_has_a_bar_for_each_split(tmp_path: Path) -> None:
    path = draw_time([ROW, ROW], tmp_path / "new")
    assert path is not None
    with Image.open(path) as two, Image.open(draw_time([ROW], tmp_path) or "") as one:
        assert two.height > one.height
    assert draw_time([], tmp_path) is None
