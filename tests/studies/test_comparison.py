"""Comparing the arms of an ablation, from the tables its runs logged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seglab.cli.main import main
from seglab.core.errors import UserError
from seglab.evaluation.metrics import PatientScore
from seglab.studies.candidates import find_candidates
from seglab.studies.comparison import compare_ablation, compare_strata
from seglab.studies.report.page import note, render, report_experiment
from seglab.studies.report.record import read_record
from seglab.studies.report.sections import scope, verdict_text
from seglab.studies.results import collect, find_parent
from seglab.tracking.run import RunLog
from seglab.tracking.store import Store
from seglab.tracking.tags import ARM_HASH, ARMS, FAILURES
from tests.studies.independent import assert_same_figures, logged_dice
from tests.studies.logged_ablation import PATIENTS, log_ablation
from tests.studies.report_page import Page

HOSTILE = '<script src="https://evil.example/x.js">|$\\frac$|`_*</script>'


@pytest.fixture
def store(fresh_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return fresh_store


def compared(store: Store, parent: RunLog) -> Any:
    return compare_ablation(collect(store, store.get_run(parent.run_id)))


def page_of(store: Store, result: Any) -> Page:
    return Page(render(read_record(store, "losses"), result, {}, ""))


def test_figures_equal_those_of_scipy_and_statsmodels_on_the_logged_tables(store: Store) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.03, "same": 0.0, "down": -0.01})
    run = store.client.get_run(parent.run_id)
    result = compared(store, parent)
    page = report_experiment(store, "losses", result)
    report = json.loads((page.parent / "comparison.json").read_text())
    assert_same_figures(report, logged_dice(store.client, parent.run_id, run.info.experiment_id))
    assert result.verdicts["up"] == "better"


def test_the_command_prints_the_promised_keys_and_writes_the_report(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.1})
    capsys.readouterr()
    assert main(["compare", "losses", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"experiment", "baseline", "n_patients", "arms"} <= printed.keys()
    assert (printed["baseline"], printed["n_patients"]) == ("base", PATIENTS)
    base, up = printed["arms"]
    keys = {"arm", "mean", "diff", "ci_low", "ci_high", "p", "p_holm", "p_wilcoxon", "verdict"}
    assert keys <= up.keys() == base.keys() | up.keys()
    assert (base["diff"], base["verdict"], up["verdict"]) == (0, "baseline", "better")
    assert up["ci_low"] < up["diff"] < up["ci_high"]
    names = {path.name for path in Path(printed["report"]).parent.iterdir()}
    assert {"report.html", "comparison.csv", "comparison.json", "patients.csv"} <= names
    assert {path.stem for path in Path(printed["report"]).parent.glob("figures/*.png")} >= {
        *("forest", "patients", "pareto", "learning")
    }
    assert store.client.list_artifacts(parent.run_id) == []


@pytest.mark.parametrize("name", ["losses", "by id"])
def test_an_ablation_is_found_by_name_and_by_id(store: Store, name: str) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.05}, seeds=[0])
    store.client.set_tag(parent.run_id, "mlflow.runName", "renamed by hand")
    found = find_parent(store, parent.run_id if name == "by id" else name, "ablation")
    assert found.run_id == parent.run_id
    assert collect(store, found).experiment == "losses"


def test_mistakes_of_the_command_end_with_2_and_one_line(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "losses"]) == 2
    assert "no run has been trained yet" in capsys.readouterr().err
    log_ablation(store, {"base": 0, "up": 0.05}, failing="base")
    for arguments, said in (
        (["lossez"], "did you mean 'losses'"),
        (["losses"], "the baseline arm 'base' has no finished run"),
        (["losses", "--baseline", "upp"], "did you mean 'up'"),
    ):
        assert main(["compare", *arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert said in lines[-1]
    child = store.find_runs("losses", {"seglab.arm": "up"})[0]
    assert main(["compare", child.run_id]) == 2
    assert "is no ablation" in capsys.readouterr().err


def test_a_damaged_table_of_scores_is_named_by_its_run(store: Store) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.1}, seeds=[0])
    (run,) = store.find_runs("losses", {"seglab.arm": "up"})
    (path,) = (store.folder / "artifacts").rglob(f"{run.run_id}/artifacts/patients_val.csv")
    path.write_text(path.read_text().replace(",", ";"))
    with pytest.raises(UserError, match=r"^patients_val\.csv of run 'up · seed 0': row 2 has no"):
        compared(store, parent)


def test_zero_finished_arms_are_nothing_to_compare(store: Store) -> None:
    parent = log_ablation(store, {"base": 0}, failing="base")
    with pytest.raises(UserError, match="nothing to compare in 'losses'"):
        compared(store, parent)


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
    parent = log_ablation(store, {"base": 0, "up": 0.1}, seeds=[0], **changed)
    with pytest.raises(UserError, match=said):
        compared(store, parent)


def test_an_arm_of_another_target_is_shown_without_a_verdict(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its truth is another, and so may be its patients and their split."""
    parent = log_ablation(
        store,
        {"base": 0, "up": 0.1, "enhancing": -0.2},
        change={"enhancing": lambda scores: other_truth(scores[1:])},
        tags={"enhancing": {"seglab.split_hash": "other"}},
        params={"enhancing": {"data.target": "enhancing"}},
    )
    result = compared(store, parent)
    other = log_ablation(store, {"base": 0, "up": 0.1})
    assert result.verdicts == {"up": "better", "enhancing": "other target"}
    assert len(result.comparison.rows) == len(compared(store, other).comparison.rows) == 1
    assert "enhancing segments enhancing, not the baseline's" in " ".join(result.warnings)
    capsys.readouterr()
    assert main(["compare", parent.run_id, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["arms"]
    assert [arm["arm"] for arm in shown] == ["base", "up", "enhancing"]
    assert shown[2].keys() <= shown[1].keys()
    assert (shown[2]["diff"], shown[2]["p"], shown[2]["verdict"]) == (None, None, "other target")
    assert main(["compare", parent.run_id]) == 0
    assert "other target" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"different targets: enhancing \(.*, whole \("):
        find_candidates(store, parent.run_id)


def test_arms_that_differ_in_their_input_may_differ_in_their_data_hash(store: Store) -> None:
    parent = log_ablation(
        store,
        {"base": 0, "up": 0.1},
        tags={"up": {"seglab.data_hash": "other"}},
        params={"base": {"data.image_size": 128}, "up": {"data.image_size": 96}},
    )
    assert compared(store, parent).verdicts["up"] == "better"


def test_unequal_budgets_are_not_ranked_and_the_report_says_so(store: Store) -> None:
    shifts = {"base": 0, "down": -0.1, "up": 0.1}
    parent = log_ablation(store, shifts, images={"up": 1101.0})
    result = compared(store, parent)
    assert result.verdicts == {"down": "worse", "up": "not ranked"}
    assert [row.arm for row in result.summaries] == list(shifts)
    for text in (verdict_text(result), page_of(store, result).text, note(result)):
        assert "budgets differ by more than 10" in text
        assert "up 1,101" in text
    assert not result.to_json()["ranked"]
    equal = log_ablation(store, shifts, images={"up": 1099.0})
    assert [row.arm for row in compared(store, equal).summaries] == ["up", "base", "down"]


def test_one_seed_failed_arms_and_runs_are_told(store: Store) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.1, "bad": 0}, seeds=[0], failing="bad")
    store.client.set_tag(parent.run_id, FAILURES, json.dumps({"bad": "no such encoder"}))
    result = compared(store, parent)
    arms = page_of(store, result)["Comparison"]
    assert "One seed only" in arms.text
    assert "no such encoder" in arms.text
    assert "failed" in [cell for row in arms.tables[-1] for cell in row]
    assert [row.arm for row in result.rows] == ["up"]


def test_only_the_runs_of_the_arm_as_it_is_now_are_compared(store: Store) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.1})
    stale = {"up": {ARM_HASH: "before the arm was changed"}}
    hashes = json.loads(store.get_run(parent.run_id).tags[ARMS])
    for run in store.find_runs("losses", {"seglab.arm": "up"}):
        store.client.set_tag(run.run_id, ARM_HASH, stale["up"][ARM_HASH])
    assert [arm.name for arm in collect(store, store.get_run(parent.run_id)).arms] == ["base"]
    store.client.set_tag(parent.run_id, ARMS, json.dumps(hashes | {"up": stale["up"][ARM_HASH]}))
    assert len(collect(store, store.get_run(parent.run_id)).arms) == 2


@pytest.mark.parametrize("baseline", [None, "up"])
def test_a_comparison_leaves_the_parent_and_its_page_as_they_were(
    store: Store, baseline: str | None
) -> None:
    parent = log_ablation(store, {"base": 0, "up": 0.1}, seeds=[0])
    before = store.get_run(parent.run_id), store.client.list_artifacts(parent.run_id)
    ablation = collect(store, before[0])
    own = report_experiment(store, "losses", compare_ablation(ablation))
    content = own.read_text()
    assert report_experiment(store, "losses", compare_ablation(ablation, baseline)).is_file()
    assert own.read_text() == content
    assert (store.get_run(parent.run_id), store.client.list_artifacts(parent.run_id)) == before


def test_what_only_seeds_would_decide_is_said(store: Store) -> None:
    offsets = iter([-0.1, 0.1])

    def shifted(scores: list[PatientScore]) -> list[PatientScore]:
        offset = next(offsets)
        return [replace(score, dice=score.dice + offset) for score in scores]

    change = {"up": shifted}
    result = compared(store, log_ablation(store, {"base": 0, "up": 0.05}, change=change))
    assert result.verdicts == {"up": "undecided"}
    page = page_of(store, result)
    assert "more seeds would decide, no number of patients would" in page.text
    rows = page["Comparison"].table("arm")
    assert {row["patients to find it"] for row in rows} == {"–", "none"}


def test_the_margin_is_that_of_the_ablation(store: Store) -> None:
    logged = log_ablation(store, {"base": 0, "same": 0})
    rows = []
    for margin in ("0.001", "0.2"):
        store.set_tag(logged.run_id, "seglab.margin", margin)
        result = compared(store, logged)
        assert f"{result.to_json()['margin']:g}" == margin
        assert {part.comparison.margin for part in result.strata} == {float(margin)}
        rows += result.rows
    assert [row.verdict for row in rows] == ["undecided", "equivalent"]


def test_strata_hold_every_patient_once_and_in_order_of_size(store: Store) -> None:
    result = compared(store, log_ablation(store, {"base": 0, "up": 0.1}))
    thirds = [part.comparison.patients for part in result.strata if "tumours" in part.name]
    volumes = [result.patients[name].truth_px for part in thirds for name in part]
    assert volumes == sorted(score.truth_px for score in result.patients.values())
    grades = {part.name: part.comparison.n_patients for part in result.strata[3:]}
    assert grades == {"grade HGG": 9, "grade LGG": 3}
    assert compare_strata({}, [], "base", 0.01) == []


def test_no_table_of_groups_is_shown_where_there_are_none(store: Store) -> None:
    result = compared(store, log_ablation(store, {"base": 0, "up": 0.1}))
    with_groups, without = (
        page_of(store, one).text for one in (result, replace(result, strata=[]))
    )
    assert "tumours in thirds" in with_groups
    assert "tumours in thirds" not in without
    assert "gains most" in without


def test_hostile_names_stay_text_and_nothing_is_loaded(store: Store) -> None:
    parent = log_ablation(store, {"base": 0, HOSTILE: 0.1, "_hidden": 0.0})
    result = compared(store, parent)
    page = page_of(store, result)
    assert HOSTILE in page.text
    assert page.loads == []
    assert "<script" not in note(result)


def test_one_arm_alone_is_described(store: Store) -> None:
    result = compared(store, log_ablation(store, {"only": 0}))
    assert report_experiment(store, "losses", result).is_file()
    assert result.rows == []
    assert "baseline" in verdict_text(result)
    assert scope(result).startswith("1 arm × ")
