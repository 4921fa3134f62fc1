"""The page of a whole study, of runs that were really made and of runs that never were."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from seglab.cli.main import main
from seglab.core.errors import UserError
from seglab.core.study import resolve_study
from seglab.studies.ablation import run_study
from seglab.studies.promotion import promote
from seglab.studies.report.document import Document, Table, cell_text
from seglab.studies.report.markdown import render_markdown
from seglab.studies.report.record import read_record
from seglab.studies.report.study import report_study, study_document
from seglab.studies.report.study_failures import gallery_data
from seglab.studies.results import find_ablation
from seglab.tracking import Store, download, open_store, start_run

HOSTILE = '<script src="https://evil.example/x.js">|`_*</script>'
SECTIONS = [
    *("Data", "Split", "Arms", "Search", "Promoted model", "Test", "Failures", "Cost"),
    *("Environment", "How to read this"),
]


class Loads(HTMLParser):
    """Collects what a browser would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "iframe", "object", "embed"}:
            self.found.append(tag)
        for name, value in attrs:
            fetched = name in {"src", "href"} and not (value or "").startswith(("data:", "#"))
            if fetched or name.startswith("on"):
                self.found.append(f"{tag} {name}={value}")


def loaded_by(page: str) -> list[str]:
    parser = Loads()
    parser.feed(page)
    return parser.found


def tables_of(document: Document, title: str) -> list[Table]:
    section = next(section for section in document.sections if section.title == title)
    return [block for block in section.blocks if isinstance(block, Table)]


def facts_of(document: Document, title: str) -> dict[str, str]:
    rows = [row for table in tables_of(document, title) for row in table.rows if len(row) == 2]
    return {cell_text(key): cell_text(value) for key, value in rows}


def words_of(document: Document, title: str) -> str:
    section = next(section for section in document.sections if section.title == title)
    return " ".join(getattr(block, "text", "") for block in section.blocks)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> tuple[Store, str]:
    """A store with an ablation and its promotion, whose data and cache are gone; that run's id."""

    folder = tmp_path_factory.mktemp("study")
    store = open_store(folder / "mlruns")
    shutil.copytree(phantoms, folder / "data")
    document = {
        "name": "tiny",
        "data": {
            **{"source": "brats-h5", "root": str(folder / "data"), "image_size": 64},
            "cache": str(folder / "cache"),
        },
        "split": {"fractions": [0.4, 0.3, 0.3]},
        "model": {"name": "unet", "base_channels": 4, "depth": 3},
        "train": {"epochs": 1, "batch_size": 16, "threads": 1, "device": "cpu"},
        "baseline": "bce",
        "arms": {"bce": {"loss": "bce"}, "dice": {"loss": "dice"}},
    }
    run_study(resolve_study(document), store)
    promoted = promote(store, "tiny")
    for gone in ("data", "cache"):
        shutil.rmtree(folder / gone)
    return store, promoted.run_id


@pytest.fixture(scope="module")
def document(told: tuple[Store, str]) -> Document:
    return study_document(read_record(told[0], "tiny"))


def test_the_whole_study_is_told_from_the_store_alone(
    told: tuple[Store, str], document: Document, tmp_path: Path
) -> None:
    store, promotion = told
    runs = {run.run_id: run for run in store.find_runs()}
    written = report_study(store, "tiny")
    assert written.html == store.folder / "reports" / "tiny" / "study.html"
    assert list(written.sections) == SECTIONS
    assert loaded_by(written.html.read_text()) == []
    assert {run.run_id: run for run in store.find_runs()} == runs, "a report changes nothing"

    record = runs[promotion]
    download(store, promotion, tmp_path, "split.json")
    split = json.loads((tmp_path / "split.json").read_text())
    data, parts = facts_of(document, "Data"), facts_of(document, "Split")
    assert data["patients"] == str(sum(len(split[part]) for part in ("train", "val", "test")))
    assert data["slices"] == str(9 * 12)
    assert data["content hash"] == record.tags["seglab.data_hash"]
    assert parts["split hash"] == split["hash"]
    assert [parts[part] for part in ("train", "val", "test")] == ["3", "3", "3"]
    assert not any(name in words_of(document, "Split") for name in split["test"])

    promoted = facts_of(document, "Promoted model")
    assert promoted["run"] == record.tags["seglab.promoted_run_id"]
    assert "finished candidates" in promoted["chosen because"]
    point = json.loads(record.tags["seglab.operating_point"])
    assert promoted["threshold"] == f"{point['threshold']:g}"
    dice = next(row for row in tables_of(document, "Test")[0].rows if row[0] == "dice")
    bounds = [record.metrics[f"test/dice{end}"] for end in ("", "_ci_low", "_ci_high")]
    assert dice[1] == "{:.4f} ({:.4f} to {:.4f})".format(*bounds)
    assert "Confirmatory" in words_of(document, "Test")


def test_failures_cost_and_environment_are_those_of_the_runs(
    told: tuple[Store, str], document: Document
) -> None:
    store, promotion = told
    children = store.find_runs("tiny", {"seglab.kind": "train"})
    training = next(row for row in tables_of(document, "Cost")[0].rows if row[0] == "training")
    images = sum(run.metrics["cost/images"] for run in children)
    assert training[1:4] == ["2", "2", f"{images:,.0f}"]
    causes = tables_of(document, "Failures")[0]
    shares = [int(cell_text(row[1]).rstrip("%")) for row in causes.rows]
    assert sum(shares) == pytest.approx(100, abs=len(shares))
    page = render_markdown(document)
    worst = [line for line in page.splitlines() if line.startswith("- BraTS20")]
    assert len(worst) == 3, "a paragraph for each of three cases"
    assert promotion in page
    machine = facts_of(document, "Environment")
    assert machine["device"] == "cpu"
    assert {"python", "torch", "numpy"} <= machine.keys()


def test_a_reopened_test_is_marked_and_every_opening_listed(store: Store) -> None:
    log_promotion(store, "twice", confirmatory=True, dice=0.5)
    log_promotion(store, "twice", confirmatory=False, dice=0.6, reason=HOSTILE)
    document = study_document(read_record(store, "twice"))
    assert "not confirmatory" in words_of(document, "Test")
    openings = tables_of(document, "Test")[-1]
    assert [row[3] for row in openings.rows] == ["yes", "no"]
    assert [row[5] for row in openings.rows] == ["0.5000", "0.6000"]
    lead = " ".join(document.blocks[0].items)  # type: ignore[union-attr]
    assert "not confirming" in lead


def log_promotion(
    store: Store, name: str, *, confirmatory: bool, dice: float, reason: str | None = None
) -> None:
    figure = {"value": dice, "low": None, "high": None, "patients": 1}
    tags = {"seglab.kind": "promotion", "seglab.confirmatory": str(confirmatory).lower()}
    tags |= {"seglab.operating_point": "{}"} | ({"seglab.reopen_reason": reason} if reason else {})
    with start_run(store, name, "promotion", tags) as log:
        log.metrics({"test/dice": dice}, step=0)
        results: dict[str, Any] = {"confirmatory": confirmatory, "openings_before": 1}
        results |= {"patients": 1, "frozen": {"dice": figure}, "plain": {}, "strata": []}
        log.json(results | {"against_baseline": None}, "test_results.json")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty") / "mlruns"
    open_store(folder)
    return folder


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    shutil.copytree(empty_store, tmp_path / "mlruns")
    return open_store(tmp_path / "mlruns")


def test_what_is_not_there_is_said(store: Store, tmp_path: Path) -> None:
    with start_run(store, "bare", "lost", {"seglab.kind": "train"}) as lost:
        lost.fail("loss is nan at step 3")
    document = study_document(read_record(store, "bare"))
    assert [section.title for section in document.sections] == SECTIONS
    assert all(section.blocks for section in document.sections)
    assert "No search" in words_of(document, "Search")
    assert "Not promoted yet" in words_of(document, "Promoted model")
    assert "Not tested yet" in words_of(document, "Test")
    assert "logged no split" in words_of(document, "Split")
    assert "No run has finished" in words_of(document, "Failures")
    assert tables_of(document, "Failures")[0].rows[0][3] == "loss is nan at step 3"
    written = report_study(store, "bare", tmp_path / "out")
    assert written.html.parent == tmp_path / "out"
    assert "Not promoted yet" in written.markdown.read_text()


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
    document = study_document(read_record(store, "s"))
    facts = facts_of(document, "Search")
    assert facts["trials"] == "2 complete, 1 pruned, 0 failed"
    assert facts["best trial"].startswith("trial 001"), "a pruned trial is not the best"
    assert facts["its values"] == "optim.lr = 0.002", "only values that this trial has"
    assert "not confirmed" in words_of(document, "Search")
    assert "finished or was pruned" in words_of(document, "Failures")


def test_names_are_escaped_and_stay_in_the_folder(store: Store) -> None:
    name = f"../../{HOSTILE}"
    with start_run(store, name, HOSTILE, {"seglab.kind": "train", "seglab.arm": HOSTILE}) as run:
        run.params({"data.source": HOSTILE})
        run.fail(HOSTILE)
    written = report_study(store, name)
    assert written.html.is_relative_to(store.folder / "reports")
    assert ".." not in written.html.parts
    page = written.html.read_text()
    assert loaded_by(page) == []
    assert "&lt;script" in page
    assert "<script" not in written.markdown.read_text()


def test_an_unknown_experiment_names_the_nearest(
    store: Store, capsys: Any, monkeypatch: Any
) -> None:
    with pytest.raises(UserError, match="no run has been trained"):
        report_study(store, "losses")
    start_run(store, "losses", "a", {"seglab.kind": "train"}).finish()
    with pytest.raises(UserError, match="did you mean 'losses'"):
        report_study(store, "loses")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert main(["report", "loses"]) == 2
    assert main(["report", "losses", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["experiment"] == "losses"
    assert told["sections"] == SECTIONS
    assert Path(told["report"]).is_file()
    assert Path(told["markdown"]).is_file()


@pytest.mark.parametrize(
    "page", [None, b"", b"<html>", b'<script type="application/json" id="data">{</script>']
)
def test_a_page_without_figures_is_no_gallery(page: bytes | None) -> None:
    assert gallery_data(page) is None


def test_an_ablation_with_results_is_shown_before_an_empty_one_and_a_confirmation(
    told: tuple[Store, str], tmp_path: Path
) -> None:
    shutil.copytree(told[0].folder, tmp_path / "mlruns")
    store = open_store(tmp_path / "mlruns")
    (compared,) = store.find_runs("tiny", {"seglab.kind": "ablation"})
    ended = {"seglab.kind": "ablation", "seglab.arms": "{}"}
    with start_run(store, "tiny", "tiny · ablation", ended | {"seglab.confirms": "a sweep"}):
        pass
    assert find_ablation(store, "tiny").run_id == compared.run_id
    with start_run(store, "tiny", "tiny · ablation", ended) as empty:
        empty.fail("no arm finished")
    document = study_document(read_record(store, "tiny"))
    (verdicts, *_) = tables_of(document, "Arms")
    assert {cell_text(row[0]) for row in verdicts.rows} == {"bce", "dice"}
    assert empty.run_id in words_of(document, "Arms")
