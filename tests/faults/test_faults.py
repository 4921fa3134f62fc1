"""A few faults, and that the campaign would see a loss; ``python -m tests.faults`` has them all."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tests.faults.catalogue  # noqa: F401  (registers)
from seglab.tracking import Store, open_store
from tests.faults.holdings import differences, leftovers, read_holdings
from tests.faults.one_code import MixedCode, OneCode
from tests.faults.registry import FAULTS
from tests.faults.workshop import Workshop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc"),
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path_factory.mktemp("faults"))
    yield workshop
    workshop.nursery.close()


@pytest.mark.parametrize("name", ["kill-run", "kill-download", "two-promotions"])
def test_a_fault_loses_nothing(shop: Workshop, name: str) -> None:
    assert FAULTS[name].inject(shop, random.Random(f"{name} 0")).total() > 0


def lose_a_metric(store: Store, run_id: str) -> None:
    store.client.log_metric(run_id, "val/dice", 0.5, timestamp=1, step=1)  # a second value


def lose_an_artifact(store: Store, run_id: str) -> None:
    next(store.folder.rglob("patients_val.csv")).write_text("half a fi")


def lose_the_end(store: Store, run_id: str) -> None:
    store.client.update_run(run_id, status="RUNNING")


def lose_a_run(store: Store, run_id: str) -> None:
    store.client.delete_run(run_id)


Lose = Callable[[Store, str], None]
LOSSES: dict[Lose, str] = {
    lose_a_metric: "metrics differ: val/dice",
    lose_an_artifact: "artifacts differ: patients_val.csv",
    lose_the_end: "status differ: FINISHED and RUNNING",
    lose_a_run: "runs are []",
}


@pytest.mark.parametrize("lose", LOSSES)
def test_a_loss_is_seen(shop: Workshop, tmp_path: Path, lose: Lose) -> None:
    whole = shop.undisturbed("run")
    shutil.copytree(whole.folder / "mlruns", tmp_path / "mlruns")
    assert differences(whole.holdings, read_holdings(tmp_path / "mlruns")) == []
    assert leftovers(tmp_path) == []
    store = open_store(tmp_path / "mlruns")
    (run,) = store.find_runs("run")
    lose(store, run.run_id)
    (line,) = differences(whole.holdings, read_holdings(tmp_path / "mlruns"))
    assert LOSSES[lose] in line
    (tmp_path / "mlruns" / "state" / run.run_id).mkdir(parents=True)
    assert leftovers(tmp_path) == [f"mlruns/state/{run.run_id}"]


def test_code_that_changes_meanwhile_is_no_finding(tmp_path: Path) -> None:
    package, folder = tmp_path / "package", tmp_path / "campaign"
    package.mkdir()
    folder.mkdir()
    (package / "pictures.py").write_text("DRAWN = 'all'")
    OneCode(folder, package).check()
    OneCode(folder, package).check()
    (package / "pictures.py").write_text("DRAWN = 'leaders'")
    with pytest.raises(MixedCode, match="changed"):
        OneCode(folder, package).check()
