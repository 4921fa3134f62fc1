"""The page of an ablation that was run and promoted."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from seglab.core.config import RunConfig
from seglab.core.study import resolve_study
from seglab.studies.ablation import run_study
from seglab.studies.promotion import promote
from seglab.studies.report.page import SECTIONS, report_experiment
from seglab.studies.results import find_parent
from seglab.tracking.artifacts import list_artifacts, read_artifact
from seglab.tracking.connect import open_store
from seglab.tracking.run import start_run
from seglab.tracking.store import RunInfo, Store
from tests.studies.report_page import Page, page_of


class Told(NamedTuple):
    """An ablation and its promotion, whose data and cache are gone, as a page tells them."""

    store: Store
    promotion: RunInfo
    page: Page
    text: str


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory,
    phantoms: Path,
    fresh_folder: Path,
    small_config: Callable[..., RunConfig],
) -> Told:
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(fresh_folder, folder / "mlruns")
    shutil.copytree(phantoms, folder / "data")
    store = open_store(folder / "mlruns")
    config = small_config(
        name="tiny",
        data={"root": str(folder / "data"), "cache": str(folder / "cache")},
        split={"fractions": [0.4, 0.3, 0.3]},
        train={"epochs": 1, "batch_size": 16},
    )
    arms = {"bce": {"loss": "bce"}, "dice": {"loss": "dice"}}
    run_study(resolve_study({**config.to_dict(), "baseline": "bce", "arms": arms}), store)
    promotion = store.get_run(promote(store, "tiny").run_id)
    for gone in ("data", "cache"):
        shutil.rmtree(folder / gone)
    runs = store.find_runs()
    written = report_experiment(store, "tiny")
    assert written == store.folder / "reports" / "tiny" / "report.html"
    assert store.find_runs() == runs, "a report changes nothing"
    text = written.read_text()
    return Told(store, promotion, Page(text), text)


def test_the_whole_study_is_told_without_its_data(told: Told) -> None:
    page, record = told.page, told.promotion
    assert list(page.sections) == [title for title in SECTIONS if title != "Search"]
    assert "With 95 % intervals" not in page["Test in detail"].text, "three patients"
    assert all("fold" not in table[0] for table in page["Comparison"].tables)
    assert "Synthetic data: phantoms, not patients." in page.text
    published = "Other data, other splits"
    assert published not in page["Test in detail"].text, "published figures are of patients"
    split = json.loads(read_artifact(told.store, record, "split.json"))
    method = page["Method"]
    assert method.facts["slices"] == str(9 * 12)
    assert method.facts["content hash"] == record.tags["seglab.data_hash"]
    assert method.facts["hash"] == split["hash"]
    counts = "3 to train on, 3 for validation, 3 in the sealed test"
    assert method.facts["patients"] == counts
    assert not any(name in method.text for name in split["test"])

    promoted = page["Promotion"].facts
    assert promoted["run"] == record.tags["seglab.promoted_run_id"]
    assert "finished candidates" in promoted["chosen because"]
    point = json.loads(record.tags["seglab.operating_point"])
    assert promoted["threshold"] == f"{point['threshold']:g}"
    dice = next(row for row in page["Test in detail"].tables[0] if row[0] == "Dice")
    assert dice[1] == f"{record.metrics['test/dice']:.3f}", "three patients carry no interval"
    for words in ("3 test patients", "too few for an interval", "is confirmatory"):
        assert words in page["Result"].text
    assert "Dice and IoU of every test patient" in page["Result"].pictures
    assert "Five patients segmented by every arm" in page["Comparison"].pictures


def test_the_method_of_the_promoted_run_can_be_repeated_from_the_page(told: Told) -> None:
    store, found = told.store, told.page["Method"]
    runs = store.find_runs("tiny", {"seglab.kind": "train"})
    drawn = ["method/data.png" in list_artifacts(store, run.run_id) for run in runs]
    assert sorted(drawn) == [False, True], "arms that differ in the loss look alike"
    assert {"Slices of three training patients", "Stages of the network"} <= set(found.pictures)
    assert {"A slice and its augmentations", "Learning curves of the run"} <= set(found.pictures)
    facts = found.facts
    assert facts["epochs"] == "1, of all slices each"
    assert facts["batch"] == "16 slices"
    assert facts["early stopping"] == "none"
    assert facts["formula"].startswith(("L = BCE", "L = 1 − (2·Σpm + s)"))
    assert "{" not in facts["formula"], "every parameter has its value"
    limits = facts["limits (share of slices)"].replace("\N{NO-BREAK SPACE}", " ")
    assert "left and right swapped (50 %); rotation ±15°, size ±15 %" in limits
    assert "gamma 0.77 to 1.3 (70 %)" in limits
    run = store.get_run(told.page["Promotion"].facts["run"])
    assert facts["training time"].startswith(f"{run.metrics['cost/train_seconds']:.1f} s")
    assert any(f"runs/{run.run_id}?" in link for link in told.page.links)


def test_every_arm_and_its_loss_is_described_and_cited(told: Told) -> None:
    compared = told.page["Comparison"]
    (table,) = (table for table in compared.tables if table[0][-1] == "what it is")
    assert table[2][:1] == ["dice"]
    assert table[2][1].startswith("loss.name = dice")
    assert "L = 1 − (2·Σpm + s)" in table[2][2]
    assert "Σp" in compared.text.split("In the formulas")[0]
    assert "s: a constant that keeps an empty slice" in compared.text
    references = " ".join(told.page["References"].items)
    assert "Sudre et al." in references
    assert "Tversky" not in references


def test_only_the_script_that_prints_may_run(told: Told) -> None:
    (script,) = told.page.scripts
    assert told.page.loads == []
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in told.text
    assert len(told.text) < 15e6


def test_failures_cost_and_environment_are_those_of_the_runs(told: Told) -> None:
    page, failures = told.page, told.page["Failures"]
    start = "Image and overlay of "
    shown = [name.removeprefix(start) for name in failures.pictures if name.startswith(start)]
    assert len(shown) == 3
    assert all(f"{name} has a tumour of" in failures.text for name in shown)
    for word in ("best", "median", "worst"):
        assert f"The {word} test patients" in page["Predictions"].pictures
    assert "By these rules a cause is chosen" in failures.text
    shares = [int(row["share of the lost Dice"].rstrip("%")) for row in failures.table("cause")]
    assert sum(shares) == pytest.approx(100, abs=len(shares))
    trained = told.store.find_runs("tiny", {"seglab.kind": "train"})
    training = next(row for row in page["Record"].tables[0] if row[0] == "training")
    images = sum(run.metrics["cost/images"] for run in trained)
    assert training[1:4] == ["2", "2", f"{images:,.0f}"]
    assert any(told.promotion.run_id in link for link in page.links)
    machine = page["Record"].facts
    assert machine["device"] == "cpu"
    assert {"python", "torch", "numpy"} <= machine.keys()


def test_an_ablation_with_results_is_shown_before_an_empty_one(told: Told, tmp_path: Path) -> None:
    shutil.copytree(told.store.folder, tmp_path / "mlruns")
    store = open_store(tmp_path / "mlruns")
    (compared,) = store.find_runs("tiny", {"seglab.kind": "ablation"})
    ended = {"seglab.kind": "ablation", "seglab.arms": "{}"}
    with start_run(store, "tiny", "tiny · ablation", ended | {"seglab.confirms": "a sweep"}):
        pass
    assert find_parent(store, "tiny", "ablation").run_id == compared.run_id
    with start_run(store, "tiny", "tiny · ablation", ended) as empty:
        empty.fail("no arm finished")
    arms = page_of(store, "tiny")["Comparison"]
    assert {row["arm"] for row in arms.table("arm")} == {"bce", "dice"}
    assert empty.run_id in arms.text
