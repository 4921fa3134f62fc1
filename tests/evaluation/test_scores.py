"""The table of patients and its summary."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from seglab.core.errors import UserError
from seglab.evaluation.metrics import PatientScore, score_patient
from seglab.evaluation.scores import read_csv, summarise, write_csv

SPACING = (1.0, 1.0, 1.0)


def patients(count: int = 5) -> tuple[list[PatientScore], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = rng.random((count, 4, 12, 12)) < 0.3
    pred = truth ^ (rng.random(truth.shape) < 0.1)
    truth[:, 0] = False
    truth[-1] = False
    pred[0, 0] = False
    scores = [
        score_patient(f"p{i}", p, t, SPACING, True, grade="HGG" if i % 2 else None)
        for i, (p, t) in enumerate(zip(pred, truth, strict=True))
    ]
    return scores, pred, truth


def test_summary_follows_its_definitions() -> None:
    scores, pred, truth = patients()
    summary = summarise(scores)
    with_tumour = [
        f1_score(t.ravel(), p.ravel()) for p, t in zip(pred[:-1], truth[:-1], strict=True)
    ]
    assert summary["dice"] == pytest.approx(np.mean(with_tumour))
    assert summary["dice_sd"] == pytest.approx(np.std(with_tumour, ddof=1))
    assert summary["dice_pooled"] == pytest.approx(f1_score(truth.ravel(), pred.ravel()))
    pairs = list(zip(pred.reshape(-1, 144), truth.reshape(-1, 144), strict=True))
    every_slice = [f1_score(t, p, zero_division=1.0) for p, t in pairs]
    tumour_slice = [f1_score(t, p) for p, t in pairs if t.any()]
    assert summary["dice_slice_empty1"] == pytest.approx(np.mean(every_slice))
    assert summary["dice_slice_tumour"] == pytest.approx(np.mean(tumour_slice))
    empty = [bool(p.any()) for p, t in pairs if not t.any()]
    assert summary["empty_slice_fp_rate"] == pytest.approx(np.mean(empty))
    assert (summary["patients"], summary["patients_without_tumour"]) == (5, 1)


def test_nothing_scored_is_nan_without_a_warning() -> None:
    summary = summarise([])
    assert math.isnan(summary["dice"])
    assert math.isnan(summary["dice_pooled"])
    assert math.isnan(summary["empty_slice_fp_rate"])
    assert summary["patients"] == 0


def test_the_order_of_patients_changes_no_figure() -> None:
    scores, *_ = patients()
    assert summarise(scores[::-1]) == pytest.approx(summarise(scores), nan_ok=True)


floats = st.floats(allow_nan=False, allow_infinity=False) | st.just(math.nan)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
@given(
    names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=4),
    value=floats,
)
def test_a_table_comes_back_to_the_bit(tmp_path: Path, names: list[str], value: float) -> None:
    template = patients(1)[0][0]
    written = [replace(template, patient_id=n, dice=value, hd95_mm=math.nan) for n in names]
    path = tmp_path / "patients_val.csv"
    write_csv(path, written)
    for left, right in zip(read_csv(path), written, strict=True):
        assert repr(left) == repr(right)


def test_pandas_reads_the_table_as_well(tmp_path: Path) -> None:
    scores, *_ = patients()
    write_csv(tmp_path / "t.csv", scores)
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["dice"].mean() == pytest.approx(summarise(scores)["dice"], abs=1e-15)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("damage", "culprit"),
    [
        (lambda text: text.replace("p1", "p0"), "'p0' is listed twice"),
        (lambda text: text.replace("hd95_mm", "hd95"), "no column 'hd95_mm'"),
        (lambda text: text.replace("p2,,", "p2,,x"), "row 4, column 'dice': 'x"),
        (lambda text: text[: text.rindex(",")], "row 6 has no column 'fp_volume_ml'"),
        (lambda text: text + '"', "cannot be read as CSV"),
        (lambda text: text + "\0", "row 7 has no column"),
    ],
)
def test_a_damaged_table_names_its_fault(tmp_path: Path, damage, culprit: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "patients_val.csv"
    write_csv(path, patients()[0])
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=culprit) as caught:
        read_csv(path)
    assert str(path) in str(caught.value)


def test_an_absent_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        read_csv(tmp_path / "nowhere.csv")
