"""``run_experiment.py``: one run end to end, its twin, its death, its mistakes."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from seglab.cli.main import main
from seglab.cli.train import describe_study
from seglab.core.registry import LOSSES
from seglab.studies.ablation import StudyOutcome
from seglab.studies.experiment import Outcome
from seglab.tracking.connect import open_store
from seglab.tracking.store import RunInfo
from tests.blackbox.commands import call, start

SCRIPT = "run_experiment.py"


def trained(*arguments: str) -> str:
    """Run an experiment of one run; returns its id."""
    return str(call(Path(), SCRIPT, *arguments, "--json").good().json["runs"][0]["run_id"])


def runs() -> list[RunInfo]:
    return open_store().find_runs()


def lasting(metrics: dict[str, float]) -> dict[str, float]:
    """The figures that must repeat; seconds, megabytes and the machine's load do not."""
    moving = ("time/", "system/", "cost/train_seconds", "cost/images_per_second", "cost/peak")
    return {key: value for key, value in metrics.items() if not key.startswith(moving)}


def test_a_run_leaves_no_state_nor_paths_and_its_twin_is_not_trained_again(
    tiny: Path, phantoms: Path
) -> None:
    first = trained(str(tiny))
    folder = Path("mlruns/artifacts/tiny") / first / "artifacts"
    assert not list(Path("mlruns/state").glob("*"))
    pages = [path for path in folder.rglob("*") if path.suffix in {".html", ".csv", ".md"}]
    assert pages
    assert not [path for path in pages if str(phantoms) in path.read_text()], "whose disk it was"

    assert trained(str(tiny)) == first, "a finished twin is reported"
    shutil.copy(folder / "config.yaml", "copy.yaml")
    assert Path("copy.yaml").read_text().startswith("# python run_experiment.py")
    assert trained("copy.yaml") == first, "the logged config is a runnable file"
    assert trained(str(tiny), "--fresh") != first
    same = [lasting(one.metrics) for one in runs()]
    assert same[0] == same[1]


def test_a_diverged_run_is_failed_with_the_reason(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def explodes() -> Callable[[Tensor, Tensor], Tensor]:
        """Is infinite."""
        return lambda logits, mask: logits.mean() * float("inf")

    LOSSES.register("explodes")(explodes)
    assert main(["run", str(tiny), "loss=explodes"]) == 2
    (run,) = runs()
    assert run.status == "FAILED"
    for told in (run.tags["seglab.error"], capsys.readouterr().err):
        assert "step 1" in told
        assert "Phantom_" in told


@pytest.mark.slow
def test_three_at_once_on_an_empty_folder(tiny: Path) -> None:
    processes = [start(Path(), SCRIPT, str(tiny), "train.epochs=1") for _ in range(3)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, outputs
    (run,) = runs()
    assert run.status == "FINISHED", "two waited for the first"


def until_epoch(process: subprocess.Popen[str], number: int = 0) -> int:
    """The first epoch that a command tells, from this number on."""
    for line in process.stderr or ():
        if "epoch" in line and (epoch := int(line.split("epoch")[1].split("/")[0])) >= number:
            return epoch
    raise AssertionError("it ended before")


@pytest.mark.slow
def test_stopped_politely_it_says_so_and_goes_on_later(tiny: Path) -> None:
    done = 1
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(Path(), SCRIPT, str(tiny), "train.epochs=200")
        assert until_epoch(process) in {done, done + 1}
        until_epoch(process, done + 2)
        process.send_signal(number)
        assert process.wait() == 130
        (run,) = runs()
        assert run.status == "KILLED"
        assert "seglab.interrupted" in run.tags
        done = len(open_store().metric_history(run.run_id, "val/dice"))
    process = start(Path(), SCRIPT, str(tiny), "train.epochs=200")
    assert until_epoch(process) in {done, done + 1}
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("change", "named"), [("data.patients=2", "data.patients"), ("train.device=cuda:7", "cuda:7")]
)
def test_what_cannot_be_done_here_is_named_and_leaves_no_run(
    tiny: Path, change: str, named: str
) -> None:
    assert call(Path(), SCRIPT, str(tiny), change).refused(named).out == ""
    assert not Path("mlruns").exists() or not runs()


@pytest.mark.parametrize(
    "line", ["run experiments/demo.yaml", "sweep experiments/sweeps/demo.yaml"]
)
def test_the_installed_command_knows_the_experiments_that_come_along(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*line.split(), "data.root=nowhere"]) == 2
    assert "data root nowhere does not exist" in capsys.readouterr().err


def test_a_dry_run_of_a_search_tells_its_hours_and_leaves_no_store(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ("search.trials=3", "search.space.optim.lr={low: 1e-4, high: 1e-2}", "--dry-run")
    assert main(["sweep", str(tiny), *search]) == 0
    told = capsys.readouterr().out
    for part in ("3 trainings: in all", "pruned trials end early", "validation", "(split "):
        assert part in told
    assert not Path("mlruns").exists()


def test_what_to_do_next_is_told() -> None:
    done = [Outcome(arm, arm, 0, "FINISHED", {"val/dice": 0.5}) for arm in "ab"]
    alone = describe_study(StudyOutcome("my study", None, done[:1]), "my study")
    assert alone.endswith("seglab promote 'my study'")
    both = describe_study(StudyOutcome("losses", "parent", done), "losses")
    assert re.search(r"next: .*seglab promote losses$", both)
    folds = [replace(one, run_id="f" * 32, fold=fold) for fold, one in enumerate(done)]
    rows = describe_study(StudyOutcome("losses", "parent", folds), "parent").splitlines()
    assert [row.split()[:4] for row in rows[1:3]] == [
        ["a", "0", "1/2", "ffffffff"], ["b", "0", "2/2", "ffffffff"]
    ]  # fmt: skip
    failed = StudyOutcome("losses", "parent", [replace(one, status="FAILED") for one in done])
    assert "next:" not in describe_study(failed, "losses")
