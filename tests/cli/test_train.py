"""``run_experiment.py``: one run end to end, its twin, its death, its mistakes."""

from __future__ import annotations

import json
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

Start = Callable[..., "subprocess.Popen[str]"]
SCRIPT = "run_experiment.py"


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["run", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def runs() -> list[RunInfo]:
    return open_store().find_runs()


def lasting(metrics: dict[str, float]) -> dict[str, float]:
    """The figures that must repeat; seconds and megabytes do not."""
    moving = ("time/", "cost/train_seconds", "cost/images_per_second", "cost/peak")
    return {key: value for key, value in metrics.items() if not key.startswith(moving)}


def test_a_run_leaves_what_the_design_promises(
    tiny: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_json(capsys, str(tiny))
    (run,) = runs()
    assert first["parent_run_id"] is None
    assert first["runs"][0]["run_id"] == run.run_id
    assert first["runs"][0]["val/dice"] == run.metrics["val/dice"]
    assert run.status == "FINISHED"
    names = {"kind", "arm", "seed", "config_hash", "data_hash", "split_hash", "device", "precision"}
    assert {f"seglab.{name}" for name in names} <= run.tags.keys()
    assert {
        "cost/parameters_m",
        "cost/gflops_per_image",
        "val/hd95_mm",
        "val/dice_slice_empty1",
    } <= (run.metrics.keys())
    folder = Path("mlruns/artifacts/tiny") / run.run_id / "artifacts"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = {"config.yaml", "split.json", "patients_val.csv", "curves.png"}
    assert (
        wanted | {"checkpoints/weights.safetensors", "overlays/worst.png", "gallery/index.html"}
        <= files
    )
    assert not list(Path("mlruns/state").glob("*"))
    pages = [path for path in folder.rglob("*") if path.suffix in {".html", ".csv", ".md"}]
    assert pages
    assert not [path for path in pages if str(phantoms) in path.read_text()], "whose disk it was"

    again = run_json(capsys, str(tiny))
    assert again["runs"][0]["run_id"] == run.run_id, "a finished twin is reported"
    shutil.copy(folder / "config.yaml", "copy.yaml")
    assert Path("copy.yaml").read_text().startswith("# python run_experiment.py")
    copied = run_json(capsys, "copy.yaml")
    assert copied["runs"][0]["run_id"] == run.run_id, "the logged config is a runnable file"
    fresh = run_json(capsys, str(tiny), "--fresh")
    assert fresh["runs"][0]["run_id"] != run.run_id
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
def test_eight_at_once_on_an_empty_folder(tiny: Path, start: Start) -> None:
    processes = [start(SCRIPT, str(tiny), "train.epochs=1") for _ in range(8)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    finished = [run for run in runs() if run.status == "FINISHED"]
    assert len(finished) == len(runs()) == 1, "seven waited for the first"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_politely_it_says_so_and_goes_on_later(
    tiny: Path, start: Start, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    process = start(SCRIPT, str(tiny), "train.epochs=200")
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch   2/" in line:
            break
    process.send_signal(number)
    assert process.wait() == 130
    (run,) = runs()
    assert run.status == "KILLED"
    assert "seglab.interrupted" in run.tags
    done = len(open_store().metric_history(run.run_id, "val/dice"))
    process = start(SCRIPT, str(tiny), "train.epochs=200")
    for line in process.stderr or ():
        if "epoch" in line:
            assert int(line.split("epoch")[1].split("/")[0]) in {done, done + 1}
            break
    process.kill()
    process.wait()


BAD = [
    (["data.root=empty"], "empty"),
    (["train.epochs=soon"], "train.epochs"),
    (["data.source=brats"], "brats-h5"),
    (["data.channel=4"], "data.channel"),
    (["data.modalities=[flare]"], "data.modalities"),
    (["data.patients=2"], "data.patients"),
    (["train.device=cuda:7"], "cuda:7"),
    (["nonsense"], "nonsense"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD, ids=lambda value: str(value)[:40])
def test_a_mistake_costs_one_line(
    tiny: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    Path("empty").mkdir()
    assert main(["run", str(tiny), *arguments]) == 2
    captured = capsys.readouterr()
    work = ("reading ", "run 1 of 1")  # said before some mistakes can be found
    (line,) = (line for line in captured.err.splitlines() if not line.startswith(work))
    assert named in line
    assert captured.out == ""
    assert not Path("mlruns").exists() or not runs()


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_wrong_path_is_told_before_anything_is_made(
    tiny: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    search = "search={space: {optim.lr: {low: 0.001, high: 0.01}}}"
    given = [str(tiny), "data.root=nowhere", *([search] if command == "sweep" else [])]
    before = sorted(Path().rglob("*"))
    assert main([command, *given]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_an_unreachable_server_is_named(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["run", str(tiny)]) == 2
    assert "127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["run experiments/demo.yaml", "sweep experiments/sweeps/demo.yaml"]
)
def test_the_installed_command_knows_the_experiments_that_come_along(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*line.split(), "data.root=nowhere"]) == 2
    assert "data root nowhere does not exist" in capsys.readouterr().err


def test_what_to_do_next_is_told() -> None:
    done = [Outcome(arm, arm, 0, "FINISHED", {"val/dice": 0.5}) for arm in "ab"]
    alone = describe_study(StudyOutcome("my study", None, done[:1]))
    assert alone.endswith("seglab promote 'my study'")
    both = describe_study(StudyOutcome("losses", "parent", done))
    assert re.search(r"next: .*seglab compare losses, then .*seglab promote losses$", both)
    failed = StudyOutcome("losses", "parent", [replace(one, status="FAILED") for one in done])
    assert "next:" not in describe_study(failed)
