"""The demo can be run as often as it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from seglab.cli.main import main
from seglab.cli.study import DEMO
from seglab.tracking.connect import open_store
from seglab.tracking.run import start_run


def test_a_test_that_an_earlier_demo_opened_is_not_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MAKELEVEL", raising=False)
    promotes = {line: text for line, text in DEMO.items() if "promote" in line}
    monkeypatch.setattr("seglab.cli.study.DEMO", promotes)
    store = open_store()
    start_run(store, "demo", "broken off", {"seglab.kind": "promotion"}).fail("stopped")
    assert main(["demo"]) == 2  # promotes, and there is nothing to promote
    with start_run(store, "demo", "promotion", {"seglab.kind": "promotion"}) as promotion:
        promotion.metrics({"test/dice": 0.8125}, step=0)
    before = len(store.find_runs("demo"))
    capsys.readouterr()
    assert main(["demo"]) == 0
    printed = capsys.readouterr()
    assert promotion.run_id in printed.err
    assert "Dice 0.812" in printed.err
    assert "Dice 0.812" in printed.out
    assert "data.root=path/to/your/data" in printed.out
    assert "seglab ui" in printed.out
    monkeypatch.setenv("MAKELEVEL", "1")
    assert main(["demo"]) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith("  make ui\n")
    assert "  . .venv/bin/activate\n" in printed.out
    assert len(store.find_runs("demo")) == before
