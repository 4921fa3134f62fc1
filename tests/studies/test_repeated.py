"""A finished command, given again, reports what is there and changes nothing in the store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seglab.cli.main import main
from seglab.core.study import Study, load_study
from seglab.studies.ablation import run_study
from seglab.studies.search.run import run_search
from seglab.tracking.connect import open_store
from seglab.tracking.store import Store

pytestmark = pytest.mark.slow
ARMS = {"arms": {"base": {}, "bce": {"loss": "bce"}}}


def content(store: Store) -> dict[str, Any]:
    """Every row of every table, and every artifact with its bytes."""
    with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as database:
        named = database.execute("select name from sqlite_master where type = 'table'").fetchall()
        rows = {name: database.execute(f'select * from "{name}"').fetchall() for (name,) in named}
    files = [path for path in (store.folder / "artifacts").rglob("*") if path.is_file()]
    return {**rows, "files": {path: path.read_bytes() for path in files}}


def test_an_ablation_with_tuning(build: Callable[..., Study], tmp_path: Path) -> None:
    store = open_store(tmp_path / "mlruns")
    tune = {"trials": 2, "space": {"optim.lr": {"low": 0.001, "high": 0.01, "log": True}}}
    study = build(name="tuned", **ARMS, tune=tune)
    first, before = run_study(study, store), content(store)
    again = run_study(study, store)
    assert content(store) == before
    assert [run.run_id for run in again.runs] == [run.run_id for run in first.runs]
    assert all(run.reused for run in again.runs)
    assert (again.parent_run_id, again.report) == (first.parent_run_id, first.report)
    notes = [run.tags["mlflow.note.content"] for run in store.find_runs("tuned")]
    assert all("artifacts/" in note for note in notes)
    assert sum("The baseline of the comparison" in note for note in notes) == 1
    assert sum("undecided" in note or "than base" in note for note in notes) == 2

    more = run_study(build(name="tuned", **ARMS, tune=tune, baseline="bce"), store)
    assert more.parent_run_id == first.parent_run_id
    assert store.get_run(str(more.parent_run_id)).tags["seglab.baseline"] == "bce"


def test_a_search_with_its_confirmation(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(trials=2, confirm={"top": 2, "seeds": [100]})
    first, store = run_search(load_study(path), open_store()), open_store()
    before = content(store)
    capsys.readouterr()
    assert main(["sweep", str(path), "--json"]) == 0
    assert content(store) == before
    assert json.loads(capsys.readouterr().out) == first.to_json()

    (parent,) = store.find_runs("tiny", {"seglab.kind": "sweep"})
    best = max(run.metrics["val/dice"] for run in store.find_runs("tiny", {"seglab.kind": "trial"}))
    assert parent.metrics["val/dice"] == best
