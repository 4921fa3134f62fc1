"""A store, a cache, a search and a registered model of an older version are taken on."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.blackbox.commands import ROOT, Store, Study, call, copy_of, environment, make_study

pytestmark = pytest.mark.slow
OLD = "e7d865d1cff7a7ccc09f867405087b8c4bc1137b"
OTHER_VOXELS = 0.01
"""Of a mask: frames of another size round some voxels at its edge otherwise."""
SERVED = """
import sys, mlflow, nibabel, numpy
image = numpy.moveaxis(numpy.load(sys.argv[1]), -1, 0)
mask = mlflow.pyfunc.load_model("models:/ablation@champion").predict(image)
numpy.save("served.npy", numpy.moveaxis(numpy.asarray(mask), 0, -1))
"""


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout of the old version, taken out of this one's history."""
    archive = subprocess.run(["git", "archive", OLD], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"commit {OLD[:7]} is not in this clone: {archive.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as file:
        file.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def made(old_code: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """What the old version made: an ablation, a search, a promotion and a mask."""
    folder = tmp_path_factory.mktemp("made")
    made = make_study(folder, old_code, seeds=[0])
    which = [sys.executable, "-c", "import seglab; print(seglab.__file__)"]
    found = subprocess.check_output(which, cwd=folder, env=environment(old_code), text=True)
    assert Path(found.strip()).is_relative_to(old_code)
    for name in ("ablation", "compare", "sweep", "promote", "predict"):
        made.ask(name)
    return made


def mask_in(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_its_ablation_is_compared_and_reported(made: Study) -> None:
    before, after = made.ask("compare").json, made.call("seglab", "compare", "ablation", "--json")
    means = [
        {arm["arm"]: arm["mean"] for arm in one["arms"]} for one in (before, after.good().json)
    ]
    assert means[1] == pytest.approx(means[0])
    page = made.call("seglab", "report", "ablation", "--json").good().json["report"]
    text = (made.folder / page).read_text(encoding="utf-8")
    assert all(arm in text for arm in means[0])


def test_its_artifacts_are_downloaded(made: Study) -> None:
    run_id = made.ask("ablation").json["runs"][0]["run_id"]
    told = made.call("seglab", "artifacts", run_id, "--out", "downloaded", "--json").good().json
    assert set(told["files"]) == Store(made.folder).tree(run_id)
    assert all((made.folder / "downloaded" / name).stat().st_size for name in told["files"])


def test_its_run_is_reproduced(made: Study) -> None:
    run_id = made.ask("ablation").json["runs"][1]["run_id"]
    told = made.call("seglab", "reproduce", run_id, "--json").good().json
    assert told["run_id"] == run_id
    assert told["equal"] == (not told["differences"])
    assert Store(made.folder).client.get_run(told["new_run_id"]).info.status == "FINISHED"


def test_its_champion_gives_the_same_mask(made: Study) -> None:
    argv = ("seglab", "predict", "ablation@champion", "new", "--out", "again", "--json")
    (before,) = made.ask("predict").json["outputs"]
    (after,) = made.call(*argv).good().json["outputs"]
    old, new = (mask_in(made.folder / one["mask"]) for one in (before, after))
    assert old.any(), "an empty mask would show nothing"
    assert (old != new).sum() <= OTHER_VOXELS * old.sum()


def test_its_champion_is_served_by_mlflow(made: Study) -> None:
    """As docs/deploy.md has it: raw FLAIR slices in, a mask of the same shape out."""
    image = np.random.default_rng(0).uniform(0, 300, (64, 64, 12)).astype(np.float32)
    np.save(made.folder / "image.npy", image)
    tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{made.folder / 'mlruns/mlflow.db'}"}
    subprocess.run(
        [sys.executable, "-c", SERVED, "image.npy"],
        cwd=made.folder,
        env=environment(ROOT) | tracking,
        check=True,
    )
    mask = np.load(made.folder / "served.npy")
    assert mask.shape == image.shape
    assert set(np.unique(mask)) <= {0, 1}


def test_its_search_goes_on_or_is_refused_by_name(made: Study) -> None:
    before = made.ask("sweep").json
    ended = made.call("sweep.py", "sweep.yaml", "--json")
    if ended.status == 0:
        assert ended.json["parent_run_id"] == before["parent_run_id"]
        assert ended.json["trials"] == before["trials"]
        assert ended.json["best"] == before["best"]
    else:
        ended.refused("sweep")


def test_an_experiment_file_of_it_still_runs(made: Study) -> None:
    """The config that it logged, with every key that there was."""
    run_id = made.ask("ablation").json["runs"][0]["run_id"]
    path = Store(made.folder).file(run_id, "config.yaml")
    data = (f"data.root={made.folder / 'phantoms'}", f"data.cache={made.folder / 'cache'}")
    ended = made.call("run_experiment.py", str(path), *data, "name=again", "--json")
    assert ended.good().json["runs"][0]["status"] == "FINISHED"


def test_its_seal_holds(made: Study, tmp_path: Path) -> None:
    """In a copy of the folder, for it makes another champion."""
    folder = copy_of(made, tmp_path / "copy")
    promoted = made.ask("promote").json
    other = next(
        one["run_id"]
        for one in made.ask("ablation").json["runs"]
        if one["run_id"] != promoted["promoted_run_id"]
    )
    call(folder, "seglab", "promote", other).refused("--reopen")
    reason = ("--reopen", "to see whether it can be", "--json")
    again = call(folder, "seglab", "promote", other, *reason).good().json
    assert again["promoted_run_id"] == other
    assert not again["confirmatory"]
    opened = Store(folder).client.get_run(again["run_id"])
    assert opened.data.tags["seglab.confirmatory"] == "false"
