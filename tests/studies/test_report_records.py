"""The page of experiments of which only records exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seglab.cli.main import main
from seglab.core.errors import UserError
from seglab.evaluation import scores
from seglab.studies.report import outcomes, sections, tables
from seglab.studies.report.page import SECTIONS, report_experiment
from seglab.studies.report.record import read_record
from seglab.tracking.openings import openings, record_opening
from seglab.tracking.run import RunLog, start_run
from seglab.tracking.store import Store
from tests.studies.logged_ablation import log_ablation
from tests.studies.report_page import Page, page_of

HOSTILE = '<script src="https://evil.example/x.js">|`_*</script>'


def log_promotion(store: Store, dice: float, reason: str | None = None) -> None:
    """Log a promotion whose test is opened for the first time, or again for a reason."""
    confirmatory = reason is None
    tags = {"seglab.kind": "promotion", "seglab.confirmatory": str(confirmatory).lower()}
    tags |= {"seglab.operating_point": "{}", "seglab.reopen_reason": reason}
    with start_run(store, "twice", "promotion", tags) as log:
        log.metrics({"test/dice": dice}, step=0)
        figures = {"dice": {"value": dice, "low": None, "high": None, "patients": 1}}
        results: dict[str, Any] = {"confirmatory": confirmatory, "openings_before": 1}
        results |= {"patients": 1, "frozen": figures, "plain": {}, "strata": []}
        log.json(results | {"against_baseline": None}, "test_results.json")


def test_a_reopened_test_is_marked_and_every_opening_listed(store: Store) -> None:
    log_promotion(store, 0.5)
    log_promotion(store, 0.6, HOSTILE)
    page = page_of(store, "twice")
    told = "Not confirmatory: patients of this test were tested before."
    assert told in page["Result"].text
    assert not any("Sealed test" in item for item in page["Result"].items), "told above"
    assert "it was trained in no ablation and no search" in page["Test in detail"].text
    listed = page["Test in detail"].table("promotion")
    opened = [(row["confirmatory"], row["test Dice"]) for row in listed]
    assert opened == [("yes", "0.5000"), ("no", "0.6000")]


def test_an_opened_test_is_told_after_its_promotion_was_deleted(store: Store) -> None:
    start_run(store, "opened", "run").finish()
    with start_run(store, "opened", "promotion", {"seglab.kind": "promotion"}) as log:
        record_opening(store, "0123456789abcdef", log.run_id, {"aa"}, None, 0)
    store.client.delete_run(log.run_id)
    page = page_of(store, "opened")
    told = f"opened at {openings(store)[0].opened_at} by promotion {log.run_id}"
    assert told in page["Result"].text
    assert "Not tested yet" not in page.text


def test_a_test_that_another_experiment_opened_is_not_sealed(store: Store) -> None:
    for name, kind, place in (
        ("first", "promotion", "kaggle"), ("same", "train", "kaggle"), ("other", "train", "there")
    ):  # fmt: skip
        with start_run(store, name, name, {"seglab.kind": kind}) as log:
            log.dataset("brats-h5", name, place, profile={"left_out": ["no t1: a, b"]})
            log.json({"train": [], "val": [], "test": ["p"], "hash": ""}, "split.json")
            if kind == "promotion":
                record_opening(store, "0123456789abcdef", log.run_id, {"aa"}, None, 0)
    (by,) = (one.opened_by for one in openings(store))
    for title in ("Result", "Test in detail"):
        text = page_of(store, "same")[title].text
        assert f"by promotion {by} of another experiment" in text
        assert "sealed." not in text
        assert by not in page_of(store, "other")[title].text
    assert page_of(store, "same")["Method"].facts["patients left out"] == "no t1: a, b"
    assert "still sealed" in page_of(store, "other")["Test in detail"].text


def test_data_that_changed_are_told_from_data_that_are_prepared_otherwise(store: Store) -> None:
    def log_run(data: str, normalise: str) -> None:
        tags = {"seglab.kind": "train", "seglab.data_hash": data}
        with start_run(store, "mixed", data, tags) as log:
            log.params({"data.normalise": normalise, "data.root": f"/of/{data}"})
            log.metrics({"val/dice": 0.5}, step=0)

    log_run("aa", "zscore")
    log_run("bb", "percentile")
    assert "several contents" not in page_of(store, "mixed").text
    log_run("cc", "zscore")
    assert "of several contents of data: " in page_of(store, "mixed")["Method"].text


def test_a_single_run_beside_an_ensemble_is_no_baseline(store: Store) -> None:
    tags = {"seglab.kind": "promotion", "seglab.baseline_run_id": "a" * 32}
    with start_run(store, "x", "alone", tags) as log:
        pass
    assert outcomes.rival(store.get_run(log.run_id)) == "the baseline aaaaaaaa"
    with start_run(store, "x", "both", tags | {"seglab.promoted_run_id": "a" * 32}) as log:
        pass
    told = outcomes.rival(store.get_run(log.run_id))
    assert told == "the best single run of the ensemble aaaaaaaa"


def test_what_is_not_there_is_said(store: Store, tmp_path: Path) -> None:
    with start_run(store, "bare", "lost", {"seglab.kind": "train"}) as lost:
        lost.fail("loss is nan at step 3")
    written = report_experiment(store, "bare", out=tmp_path / "out", author="A & B")
    assert written.parent == tmp_path / "out"
    page = Page(written.read_text())
    assert "Author: A & B" in page.text
    assert list(page.sections) == [title for title in SECTIONS if title != "Search"]
    for title, words in {
        "Promotion": "Not promoted yet",
        "Result": "Not tested yet",
        "Method": "logged no split",
        "Failures": "No run has finished",
    }.items():
        assert words in page[title].text
    assert page["Record"].table("unfinished run")[0]["reason"] == "loss is nan at step 3"


def test_the_run_that_logs_a_report_is_shown_as_finished(store: Store, tmp_path: Path) -> None:
    with start_run(store, "own", "own · ablation", {"seglab.kind": "ablation"}) as log:
        written = report_experiment(store, "own", out=tmp_path, ending=log.run_id)
    assert "finished or was pruned" in Page(written.read_text())["Record"].text
    with start_run(store, "own", "promotion of x", {"seglab.kind": "promotion"}) as log:
        assert read_record(store, "own").promotion is None
        tested = read_record(store, "own", log.run_id).promotion
        assert tested is not None
        assert tested.run_id == log.run_id


def test_folds_are_one_choice_and_an_ensemble_is_no_single_run(store: Store) -> None:
    made = {}
    for arm, fold, dice in (("a", 0, 0.9), ("a", 1, 0.5), ("b", 0, 0.8), ("b", 1, 0.7)):
        tags = {"seglab.kind": "train", "seglab.arm": arm, "seglab.seed": "0"}
        with start_run(store, "cv", f"{arm} · {fold}", tags | {"seglab.fold": str(fold)}) as run:
            run.metrics({"val/dice": dice}, step=1)
            run.params({"split.folds": 2})
            run.json({"train": ["p"], "val": ["q"], "test": ["r"], "hash": ""}, "split.json")
        made[arm, fold] = run.run_id
    with start_run(store, "cv", "trial", {"seglab.kind": "trial"}) as run:
        run.metrics({"val/dice": 0.95}, step=1)
    members = f"{made['b', 1]},{made['b', 0]}"
    model = {"seglab.promoted_run_id": made["b", 1], "seglab.ensemble": members}
    start_run(store, "cv", "promotion", {"seglab.kind": "promotion"} | model).finish()
    page = page_of(store, "cv")
    (best, tested) = page["Result"].items
    assert best.startswith(
        "Best on validation: b · seed 0, Dice 0.750 out of fold, the highest of 2"
    )
    assert tested.startswith("Sealed test of an ensemble of 2 runs")
    assert "the first of 2 runs that the promoted ensemble averages" in page["Method"].text
    assert "each of the 2 in one of the folds" in page["Method"].facts["patients"]
    assert page["Promotion"].facts["ensemble"].endswith(members.replace(",", ", "))
    assert "chosen from 2 arm and seed pairs on" in page["Limits"].text


def test_an_evaluation_that_was_repeated_is_shown_once(store: Store) -> None:
    for dice, patients in ((0.1, "x"), (0.2, "y"), (0.3, "x")):
        tags = {"seglab.kind": "evaluation", "seglab.data_hash": patients}
        with start_run(store, "e", "e", tags | {"seglab.evaluated_run_id": "m"}) as run:
            run.metrics({"external/dice": dice}, step=0)
    page = page_of(store, "e")
    rows = page["Test in detail"].table("other data set")
    assert [row["result"][:10] for row in rows] == ["Dice 0.300", "Dice 0.200"]
    assert len([one for one in page["Result"].items if "nothing was tuned" in one]) == 2


@pytest.mark.parametrize(("low", "told"), [(0.70, ""), (0.5, "The interval is 3.0 times as wide")])
def test_an_interval_much_wider_than_students_is_explained(
    store: Store, low: float, told: str
) -> None:
    with start_run(store, "wide", "p", {"seglab.kind": "promotion"}) as log:
        log.metrics({"test/dice_sd": 0.1398}, step=0)  # of ten patients: Student's is ± 0.1
    dice = {"value": 0.8, "low": low, "high": 0.9, "patients": 10}
    assert outcomes.wide_interval(store.get_run(log.run_id), dice)[:33] == told


def test_every_figure_of_the_test_has_words() -> None:
    assert tables.FIGURES.keys() == scores.FIGURES.keys()


def test_sizes_of_few_patients_have_no_figure_and_are_told_in_ml_where_known() -> None:
    dice = {"value": 0.8, "low": 0.7, "high": 0.9, "patients": 5}
    few = {"name": "small", "smallest": 1, "largest": 2, "dice": dice | {"patients": 4}}
    old = {"name": "medium", "smallest": 1000, "largest": 2000, "dice": dice}
    new = old | {"name": "large", "smallest_ml": 1.0, "largest_ml": 2.04}
    shown = sections.tumour_sizes({"strata": [few, old, new]})
    assert [row[1] for row in shown] == ["1 to 2 px", "1,000 to 2,000 px", "1.0 to 2.0 ml"]
    assert [row[3] == "–" for row in shown] == [True, False, False]
    assert sections.tumour_sizes({"strata": [few]}) == []


def test_numbers_of_patients_have_two_digits() -> None:
    assert [tables.planned(count) for count in (130_043, 23, 0, None)] == [
        *("130,000", "23", "enough", "none"),
    ]


def test_trials_are_counted_and_the_best_named(store: Store) -> None:
    space = {"optim.lr": {"low": 1e-4, "high": 1e-2}, "loss.alpha": {"low": 0.3, "high": 0.8}}
    with start_run(store, "s", "s · sweep", {"seglab.kind": "sweep"}) as sweep:
        sweep.params({"search.sampler": "tpe", "search.space": json.dumps(space)})
        sweep.metrics({"search/complete": 2, "search/pruned": 1, "search/failed": 0}, step=3)
        for number, dice in enumerate([0.4, 0.7, 0.9]):
            tags = {"seglab.kind": "trial", "seglab.arm": f"trial {number:03d}"}
            trial = start_run(store, "s", f"trial {number:03d}", tags, sweep.run_id)
            trial.params({"optim.lr": 0.001 * (number + 1)})
            trial.metrics({"val/dice": dice}, step=1)
            trial.prune(1) if number == 2 else trial.finish()
    page = page_of(store, "s")
    facts = page["Search"].facts
    assert facts["trials"] == "2 finished, 1 pruned, 0 failed"
    assert facts["best trial"].startswith("trial 001"), "a pruned trial is not the best"
    assert facts["its values"] == "optim.lr = 0.002", "only values that this trial has"
    assert "no confirmation" in page["Search"].text
    assert "finished or was pruned" in page["Record"].text


def test_a_confirmation_says_what_it_rests_on(store: Store) -> None:
    with start_run(store, "s", "s · sweep", {"seglab.kind": "sweep"}) as sweep:
        told = {"text": "judged on others", "search_value": 0.8, "search_gain": 0.3527}
        told |= {"confirmed_mean": 0.7, "ci_low": 0.6, "ci_high": 0.75, "confirmed_gain": 0.0794}
        told |= {"gain_ci_low": -0.1, "gain_ci_high": 0.3, "optimism": 0.2733}
        told |= {"verdict": "undecided", "validation_patients": [*"abcde"]}
        sweep.json(told, "confirmation.json")
        row = {"diff": 0.1, "ci_low": -0.2, "ci_high": 0.4}
        change = {"key": "optim.lr", "base": 0.1, "best": 0.2, "given": row, "put_back": row}
        explained = {"text": "why", "changes": [change], "confidence": {"given": 0.98333}}
        sweep.json(explained | {"validation_patients": [*"abcde"]}, "explanation.json")
    search = page_of(store, "s")["Search"]
    assert "Judged on others." in search.text
    assert search.facts["confirmed on other patients"] == "0.700 (0.600 to 0.750)"
    assert search.facts["gain confirmed"] == "+0.079 (−0.100 to +0.300)"
    assert search.facts["optimism of the search"] == "+0.274", "0.353 less 0.079, as printed"
    assert search.table("parameter")[0]["base with it"] == "+0.100 (−0.200 to +0.400)"
    assert "with 98.3 % intervals" in search.text
    sweep.json(told | {"validation_patients": [*"abcd"]}, "confirmation.json")
    sweep.json(explained | {"validation_patients": [*"abcd"]}, "explanation.json")
    search = page_of(store, "s")["Search"]
    assert search.facts["gain confirmed"] == "+0.079", "four patients carry no interval"
    assert search.table("parameter")[0]["base with it"] == "+0.100"
    params = {"base": {"optim.lr": 0.1}, "trial 001": {"optim.lr": 0.2}}
    parent = log_ablation(store, {"base": 0, "trial 001": 0.1}, params=params)
    older = {"seglab.kind": "sweep", "seglab.confirmation_run_id": parent.run_id}
    with start_run(store, "older", "older · sweep", older) as sweep:
        of_data = {"seglab.kind": "trial", "seglab.data_hash": "d"}
        trial = start_run(store, "older", "trial 000", of_data, sweep.run_id)
        for log, source in ((sweep, "older"), (trial, "set")):  # of which the first is kept
            log.dataset("brats-h5", "d", f"brats-h5:{source}")
        trial.finish()
    confirmed = store.find_runs(parent_run_id=parent.run_id)[0].run_id
    RunLog(store, confirmed, {}).dataset("brats-h5", "d", "brats-h5:set", profile={"patients": 12})
    page = page_of(store, "older")
    assert page["Method"].facts["data set"] == "brats-h5:set"
    assert page["Method"].facts["patients"] == "12"
    (counted,) = page["Record"].table("runs")[1:2]  # below the trial
    assert (counted["runs"], counted["number"]) == ("confirmation of the search", "4")
    assert any("Obuchowski" in item for item in page["References"].items)
    search = page["Search"]
    assert "patients that chose the best trials: its verdicts are optimistic" in search.text
    assert {row["arm"] for row in search.table("arm")} == {"base", "trial 001"}
    assert search.facts["trial 001"] == "optim.lr = 0.2"


def test_files_that_older_versions_did_not_log_are_named(store: Store) -> None:
    with start_run(store, "old", "a", {"seglab.kind": "train"}) as run:
        run.metrics({"val/dice": 0.5}, step=1)
        run.dataset("brats", "d", "brats:x", profile={"patients": 1})
        run.text("<html>", "gallery/index.html")
    promotion = start_run(store, "old", "promotion", {"seglab.kind": "promotion"})
    page = page_of(store, "old")
    assert "logged no failures.json; its gallery/index.html explains" in page["Failures"].text
    assert "logged no environment.json" in page["Record"].text
    assert [row["status"] for row in page["Test in detail"].table("promotion")] == ["running"]
    promotion.finish()
    page = page_of(store, "old")
    assert "logged no test_results.json" in page["Test in detail"].text
    assert "logged no failures.json." in page["Failures"].text


def test_names_are_escaped_and_stay_in_the_folder(store: Store) -> None:
    name = f"../../{HOSTILE}"
    with start_run(store, name, HOSTILE, {"seglab.kind": "train", "seglab.arm": HOSTILE}) as run:
        run.params({"data.source": HOSTILE})
        run.fail(HOSTILE)
    written = report_experiment(store, name)
    assert written.is_relative_to(store.folder / "reports")
    assert ".." not in written.parts
    page = Page(written.read_text())
    assert page.loads == []
    assert HOSTILE in page.text


@pytest.mark.usefixtures("this_store")
def test_an_unknown_experiment_names_the_nearest(store: Store, capsys: Any) -> None:
    with pytest.raises(UserError, match="no run has been trained"):
        report_experiment(store, "losses")
    start_run(store, "losses", "a", {"seglab.kind": "train"}).finish()
    assert main(["report", "loses"]) == 2
    assert "did you mean 'losses'" in capsys.readouterr().err
    assert main(["report", "losses", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sections"] == list(SECTIONS)
    assert Path(told["report"]).is_file()


@pytest.fixture
def store(fresh_store: Store) -> Store:
    return fresh_store
