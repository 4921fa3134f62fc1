"""Comparing the arms of an ablation, from the tables its runs logged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from seglab.cli.main import main
from seglab.core.errors import UserError
from seglab.evaluation.metrics import PatientScore
from seglab.figures.comparison import forest
from seglab.studies.candidates import find_candidates
from seglab.studies.comparison import ComparedAblation, compare_ablation, compare_strata
from seglab.studies.report.page import note, render, report_experiment
from seglab.studies.report.record import read_record
from seglab.studies.report.sections import scope, verdict_text
from seglab.studies.results import collect
from seglab.tracking.store import Store
from seglab.tracking.tags import ARMS, FAILURES
from tests.studies.logged_ablation import PATIENTS, log_ablation
from tests.studies.report_page import Page

Capture = pytest.CaptureFixture[str]
HOSTILE = '<script src="https://evil.example/x.js">|$\\frac$|`_*</script>'


@pytest.fixture
def store(fresh_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(fresh_store.folder.parent)
    return fresh_store


def compared(store: Store, run_id: str) -> ComparedAblation:
    return compare_ablation(collect(store, store.get_run(run_id)))


def logged(store: Store, shifts: dict[str, float], **options: Any) -> ComparedAblation:
    """Log an ablation of these differences, and compare its arms."""
    return compared(store, log_ablation(store, shifts, **options).run_id)


def page_of(store: Store, result: ComparedAblation) -> Page:
    return Page(render(read_record(store, "losses"), result, {}, ""))


def logged_dice(store: Store, arm: str) -> np.ndarray:
    """Dice (seeds, patients) of an arm, downloaded and read with nothing of ours."""
    runs = sorted(store.find_runs("losses", {"seglab.arm": arm}), key=lambda run: run.name)
    paths = [store.client.download_artifacts(run.run_id, "patients_val.csv") for run in runs]
    tables = [pd.read_csv(path, index_col="patient_id").sort_index() for path in paths]
    return np.array([table["dice"] for table in tables])


def test_figures_equal_those_of_scipy_and_statsmodels_on_the_logged_tables(store: Store) -> None:
    found = logged(store, {"base": 0, "up": 0.03, "same": 0.0, "down": -0.01}).to_json()
    base, *rows = found["arms"]
    corrected = multipletests([row["p"] for row in rows], method="holm")[1]
    for row, holm in zip(rows, corrected, strict=True):
        by_seed, first = logged_dice(store, row["arm"]), logged_dice(store, "base").mean(axis=0)
        d = by_seed.mean(axis=0) - first
        expected = {
            "mean": by_seed.mean(),
            "diff": d.mean(),
            "p_holm": holm,
            "p_wilcoxon": stats.wilcoxon(d).pvalue,
            "sd_diff": stats.tstd(d),
            "sd_patients": stats.tstd(by_seed.mean(axis=0)),
            "sd_seeds": stats.tstd(by_seed.mean(axis=1)),
            "wins": (d > 0).sum(),
            "losses": (d < 0).sum(),
        }
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-9)
        assert (holm <= 0.05) == (row["verdict"] in ("better", "worse"))
    assert rows[0]["verdict"] == "better"
    assert base["mean"] == pytest.approx(first.mean(), rel=1e-9)


def test_the_command_writes_a_report_and_logs_nothing(store: Store, capsys: Capture) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.1})
    before = store.get_run(parent.run_id), store.client.list_artifacts(parent.run_id)
    capsys.readouterr()
    assert main(["compare", "losses", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["baseline"], printed["n_patients"]) == ("base", PATIENTS)
    base, up = printed["arms"]
    assert up.keys() == base.keys() | up.keys()
    assert (base["diff"], base["verdict"], up["verdict"]) == (0, "baseline", "better")
    assert up["ci_low"] < up["diff"] < up["ci_high"]
    page = Path(printed["report"])
    names = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*.*")}
    figures = {f"figures/{name}.png" for name in ("forest", "patients", "pareto", "learning")}
    assert figures | {"comparison.csv", "comparison.json", "patients.csv"} <= names
    content = page.read_bytes()
    assert main(["compare", "losses", "--baseline", "up"]) == 0
    assert page.read_bytes() == content, "another baseline has a page of its own"
    assert (store.get_run(parent.run_id), store.client.list_artifacts(parent.run_id)) == before


def test_mistakes_of_the_command_end_with_2_and_one_line(store: Store, capsys: Capture) -> None:
    assert main(["compare", "losses"]) == 2
    assert "no run has been trained yet" in capsys.readouterr().err
    log_ablation(store, {"base": 0, "up": 0.05}, failing="base")
    child = store.find_runs("losses", {"seglab.arm": "up"})[0]
    for arguments, said in (
        (["lossez"], "did you mean 'losses'"),
        (["losses"], "the baseline arm 'base' has no finished run"),
        (["losses", "--baseline", "upp"], "did you mean 'up'"),
        ([child.run_id], "is no ablation"),
    ):
        assert main(["compare", *arguments]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_damaged_table_of_scores_is_named_by_its_run(store: Store) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.1}, seeds=[0])
    (run,) = store.find_runs("losses", {"seglab.arm": "up"})
    (path,) = (store.folder / "artifacts").rglob(f"{run.run_id}/artifacts/patients_val.csv")
    path.write_text(path.read_text().replace(",", ";"))
    with pytest.raises(UserError, match=r"^patients_val\.csv of run 'up · seed 0' has no column"):
        compared(store, parent.run_id)


def other_truth(scores: list[PatientScore]) -> list[PatientScore]:
    return [*scores[:-1], replace(scores[-1], truth_px=1)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"change": {"up": lambda s: s[1:]}}, "arm 'up' has no patient BraTS20_Training_000"),
        ({"tags": {"up": {"seglab.split_hash": "other"}}}, "different splits .*other"),
        ({"tags": {"up": {"seglab.data_hash": "other"}}}, "different data .*other"),
        (
            {"change": {"up": other_truth}},
            "Training_011 has 9700 tumour pixels in 5 slices.*1 in 5",
        ),
    ],
)
def test_arms_of_other_data_are_refused(store: Store, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        logged(store, {"base": 0, "up": 0.1}, seeds=[0], **changed)


def test_an_arm_of_another_target_has_no_verdict(store: Store) -> None:
    """Its truth is another, and so may be its patients and their split."""
    result = logged(
        store,
        {"base": 0, "up": 0.1, "enhancing": -0.2},
        change={"enhancing": lambda scores: other_truth(scores[1:])},
        tags={"enhancing": {"seglab.split_hash": "other"}},
        params={"enhancing": {"data.target": "enhancing"}},
    )
    assert result.verdicts == {"up": "better", "enhancing": "other target"}
    assert len(result.comparison.rows) == 1
    assert "enhancing segments enhancing, not the baseline's" in " ".join(result.warnings)
    shown = result.to_json()["arms"]
    assert [arm["arm"] for arm in shown] == ["base", "up", "enhancing"]
    assert shown[2].keys() <= shown[1].keys()
    assert (shown[2]["diff"], shown[2]["p"], shown[2]["verdict"]) == (None, None, "other target")
    assert "other target" in verdict_text(result)
    with pytest.raises(UserError, match=r"different targets: enhancing \(.*, whole \("):
        find_candidates(store, result.ablation.parent.run_id)


def test_arms_that_differ_in_their_input_may_differ_in_their_data_hash(store: Store) -> None:
    sizes = {"base": {"data.image_size": 128}, "up": {"data.image_size": 96}}
    tags = {"up": {"seglab.data_hash": "other"}}
    result = logged(store, {"base": 0, "up": 0.1}, tags=tags, params=sizes)
    assert result.verdicts["up"] == "better"


def test_unequal_budgets_are_not_ranked_and_the_report_says_so(store: Store) -> None:
    shifts = {"base": 0, "down": -0.1, "up": 0.1}
    result = logged(store, shifts, images={"up": 1101.0})
    assert result.verdicts == {"down": "worse", "up": "not ranked"}
    assert [row.arm for row in result.summaries] == list(shifts)
    for text in (verdict_text(result), page_of(store, result).text, note(result)):
        assert "budgets differ by more than 10" in text
        assert "up 1,101" in text
    assert not result.to_json()["ranked"]
    equal = logged(store, shifts, images={"up": 1099.0})
    assert [row.arm for row in equal.summaries] == list(shifts), "as in the file"


def test_one_seed_failed_arms_and_runs_are_told(store: Store) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.1, "bad": 0}, seeds=[0], failing="bad")
    store.client.set_tag(parent.run_id, FAILURES, json.dumps({"bad": "no such encoder"}))
    result = compared(store, parent.run_id)
    arms = page_of(store, result)["Comparison"]
    assert "One seed only" in arms.text
    assert "no such encoder" in arms.text
    assert "failed" in [cell for row in arms.tables[-1] for cell in row]
    assert [row.arm for row in result.rows] == ["up"]


def test_only_the_runs_of_the_arm_as_it_is_now_are_compared(store: Store) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.1})
    hashes = json.loads(store.get_run(parent.run_id).tags[ARMS])
    for arms, are_found in ((hashes, ["base", "up"]), (hashes | {"up": "new"}, ["base"])):
        store.client.set_tag(parent.run_id, ARMS, json.dumps(arms))
        found = collect(store, store.get_run(parent.run_id)).arms
        assert [arm.name for arm in found] == are_found


def test_what_only_seeds_would_decide_is_said(store: Store) -> None:
    offsets = iter([-0.1, 0.1])

    def shifted(scores: list[PatientScore]) -> list[PatientScore]:
        offset = next(offsets)
        return [replace(score, dice=score.dice + offset) for score in scores]

    result = logged(store, {"base": 0, "up": 0.05}, change={"up": shifted})
    assert result.verdicts == {"up": "undecided"}
    page = page_of(store, result)
    assert "more seeds may decide, more patients without more seeds would not" in page.text
    rows = page["Comparison"].table("arm")
    assert {row["patients to find it"] for row in rows} == {"–", "none"}


def test_three_patients_show_neither_interval_nor_p(store: Store) -> None:
    few = {arm: lambda scores: scores[:3] for arm in ("base", "up")}
    result = logged(store, {"base": 0, "up": 0.05}, change=few).as_shown()
    up = page_of(store, result)["Comparison"].table("arm")[1]
    shown = [up[heading] for heading in ("interval", "p", "p (Holm)", "p (Wilcoxon)")]
    assert (up["arm"], shown) == ("up", ["–"] * 4)
    (axes,) = forest(result.rows, result.verdicts, "base", 0.01, 0.95).axes
    assert "interval" not in axes.get_xlabel()


def test_the_margin_is_that_of_the_ablation(store: Store) -> None:
    parent = log_ablation(store, {"base": 0, "same": 0})
    rows = []
    for margin in ("0.001", "0.2"):
        store.set_tag(parent.run_id, "seglab.margin", margin)
        result = compared(store, parent.run_id)
        assert f"{result.to_json()['margin']:g}" == margin
        assert {part.comparison.margin for part in result.strata} == {float(margin)}
        rows += result.rows
    assert [row.verdict for row in rows] == ["undecided", "equivalent"]


def test_strata_hold_every_patient_once_and_in_order_of_size(store: Store) -> None:
    result = logged(store, {"base": 0, "up": 0.1})
    thirds = [part.comparison.patients for part in result.strata if "tumours" in part.name]
    volumes = [result.patients[name].truth_px for part in thirds for name in part]
    assert volumes == sorted(score.truth_px for score in result.patients.values())
    grades = {part.name: part.comparison.n_patients for part in result.strata[3:]}
    assert grades == {"grade HGG": 9, "grade LGG": 3}
    assert compare_strata({}, [], "base", 0.01) == []
    for strata, are_shown in ((result.strata, True), ([], False)):
        text = page_of(store, replace(result, strata=strata)).text
        assert ("tumours in thirds" in text) is are_shown
        assert "gains most" in text


def test_hostile_names_stay_text_and_nothing_is_loaded(store: Store) -> None:
    result = logged(store, {"base": 0, HOSTILE: 0.1, "_hidden": 0.0})
    page = page_of(store, result)
    assert HOSTILE in page.text
    assert page.loads == []
    assert "<script" not in note(result)


def test_one_arm_is_described(store: Store) -> None:
    result = logged(store, {"only": 0})
    assert report_experiment(store, "losses", result).is_file()
    assert result.rows == []
    assert "baseline" in verdict_text(result)
    assert scope(result).startswith("1 arm × ")
