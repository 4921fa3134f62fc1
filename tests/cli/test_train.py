"""``run_experiment.py``: one run end to end, its twin, its death, its mistakes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from torch import Tensor

from seglab.cli.train import main, sweep
from seglab.core.registry import LOSSES
from seglab.tracking import RunInfo, open_store

Start = Callable[..., "subprocess.Popen[str]"]
SCRIPT = "run_experiment.py"


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
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
    copied = run_json(capsys, "copy.yaml")
    assert copied["runs"][0]["run_id"] == run.run_id, "the logged config is a runnable file"
    fresh = run_json(capsys, str(tiny), "--fresh")
    assert fresh["runs"][0]["run_id"] != run.run_id
    same = [lasting(one.metrics) for one in runs()]
    assert same[0] == same[1]


def test_a_dry_run_plans_and_leaves_nothing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = run_json(capsys, str(tiny), "--dry-run", "seeds=[0, 1]")
    assert plan["seeds"] == [0, 1]
    assert plan["arms"][0]["parameters_m"] > 0
    assert not Path("mlruns").exists()


def test_a_diverged_run_is_failed_with_the_reason(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def explodes() -> Callable[[Tensor, Tensor], Tensor]:
        """Is infinite."""
        return lambda logits, mask: logits.mean() * float("inf")

    LOSSES.register("explodes")(explodes)
    assert main([str(tiny), "loss=explodes"]) == 2
    (run,) = runs()
    assert run.status == "FAILED"
    for told in (run.tags["seglab.error"], capsys.readouterr().err):
        assert "step 1" in told
        assert "BraTS20_Training" in told


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
    (["data.root=nowhere"], "nowhere"),
    (["data.root=empty"], "empty"),
    (["trian.epochs=1"], "did you mean 'train'"),
    (["train.epochs=soon"], "train.epochs"),
    (["train.epochs=0"], "train.epochs"),
    (["model.name=unett"], "did you mean 'unet'"),
    (["loss.name=dicee"], "did you mean 'dice'"),
    (["augment.name=flipps"], "did you mean 'flips'"),
    (["data.source=brats"], "brats-h5"),
    (["data.channel=4"], "data.channel"),
    (["data.modalities=[flare]"], "data.modalities"),
    (["data.patients=2"], "data.patients"),
    (["train.device=cuda:7"], "cuda:7"),
    (["split.fractions=[1, 1, 1]"], "fractions"),
    (["nonsense"], "nonsense"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD, ids=lambda value: str(value)[:40])
def test_a_mistake_costs_one_line(
    tiny: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    Path("empty").mkdir()
    assert main([str(tiny), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert named in captured.err
    assert captured.out == ""
    assert not Path("mlruns").exists() or not runs()


@pytest.mark.parametrize("command", [main, sweep], ids=["run_experiment", "sweep"])
def test_a_wrong_path_is_told_before_anything_is_made(
    tiny: Path, capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], int]
) -> None:
    search = "search={space: {optim.lr: {low: 0.001, high: 0.01}}}"
    given = [str(tiny), "data.root=nowhere", *([search] if command is sweep else [])]
    before = sorted(Path().rglob("*"))
    assert command(given) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_a_missing_file_is_named(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["missing.yaml"]) == 2
    assert "missing.yaml" in capsys.readouterr().err


def test_an_unreachable_server_is_named(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main([str(tiny)]) == 2
    assert "127.0.0.1:9" in capsys.readouterr().err


def copy_of(phantoms: Path) -> Path:
    shutil.copytree(phantoms, "copy")
    return next(Path("copy").rglob("volume_4_slice_5.h5"))


def rewrite(path: Path, **arrays: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


IMAGE, MASK = np.zeros((64, 64, 4)), np.zeros((64, 64, 3), np.uint8)
DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:900]),
    "no mask": lambda path: rewrite(path, image=IMAGE),
    "mask of another shape": lambda path: rewrite(path, image=IMAGE, mask=MASK[:32]),
    "NaN": lambda path: rewrite(path, image=np.full_like(IMAGE, np.nan), mask=MASK),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_file_is_named_and_may_be_skipped(
    tiny: Path, phantoms: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = copy_of(phantoms)
    DAMAGE[damage](path)
    given = [str(tiny), "data.root=copy", "data.cache=cache"]
    assert main(given) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert path.name in captured.err
    assert not list(Path("cache").rglob("index.json")), "no half cache"
    plan = run_json(capsys, *given, "data.on_bad_file=skip", "--dry-run")
    assert sum(plan["patients"].values()) == 8


def test_a_half_finished_download_is_told_and_trained_on(
    tiny: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = copy_of(phantoms)
    lost.unlink()
    run = run_json(capsys, str(tiny), "data.root=copy", "data.cache=cache", "train.epochs=1")
    assert open_store().get_run(run["runs"][0]["run_id"]).tags["seglab.missing_files"] == "1"
    assert main([str(tiny), "data.root=copy", "data.cache=cache", "train.epochs=1"]) == 0
    assert f"copy lacks 1 files of its set, {lost.name} the first" in capsys.readouterr().err


def test_two_patients_are_refused_before_anything_is_made(
    tiny: Path, phantoms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(phantoms).parent
    for path in folder.glob("volume_[3-9]_*.h5"):
        path.unlink()
    assert main([str(tiny), "data.root=copy"]) == 2
    told = capsys.readouterr().err
    assert told == "error: copy holds 2 patients; a split needs at least 3\n"
    assert not Path("mlruns").exists()


def test_a_cache_whose_bytes_were_changed_is_refused(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_json(capsys, str(tiny), "data.cache=cache", "--dry-run")
    (images,) = Path("cache").rglob("flair.npy")
    data = bytearray(images.read_bytes())
    data[len(data) // 2] ^= 1
    time.sleep(0.01)
    images.write_bytes(data)
    assert main([str(tiny), "data.cache=cache"]) == 2
    assert images.name in capsys.readouterr().err


def test_the_logged_config_is_yaml_with_its_command_on_top(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_json(capsys, str(tiny), "train.epochs=1")
    (path,) = Path("mlruns").rglob("config.yaml")
    assert path.read_text().startswith("# python run_experiment.py")
    assert yaml.safe_load(path.read_text())["train"]["epochs"] == 1
