"""Every experiment that ships is run, briefly, on phantoms."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from seglab.core.study import load_study
from seglab.studies.ablation import run_study
from seglab.studies.tuning import tuning_plans
from seglab.tracking.connect import open_store
from seglab.tracking.store import Store

FOLDER = Path(__file__).resolve().parents[1] / "experiments"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
RECIPES = sorted(f"recipe/{path.name}" for path in (FOLDER / "recipe").glob("*.yaml"))
BRIEFLY = (
    *("data.source=brats-h5", "data.image_size=64", "split.fractions=[0.5,0.3,0.2]"),
    *("train.epochs=1", "train.samples_per_epoch=4", "train.batch_size=4"),
    *("train.threads=1", "train.device=cpu", "evaluation.overlays=0"),
    *("seeds=[0]", "tune=null"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return open_store(tmp_path_factory.mktemp("store") / "mlruns")


@pytest.mark.parametrize("name", FILES + RECIPES)
def test_its_header_shows_the_command_that_runs_it(name: str) -> None:
    header = (FOLDER / name).read_text(encoding="utf-8").split("\nname:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"python run_experiment.py experiments/{name}" in header


@pytest.mark.parametrize("name", FILES + RECIPES)
def test_its_tuning_fits_every_arm(name: str) -> None:
    study = load_study(FOLDER / name)
    planned = tuning_plans(study, "")
    assert planned.keys() == (study.arms.keys() if study.tune else set())


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_it_runs_and_reports(
    name: str, phantoms: Path, shared_cache: Path, store: Store, tmp_path: Path
) -> None:
    here = (f"data.root={phantoms}", f"data.cache={shared_cache}")
    if name == "pretrained.yaml":
        weights = tmp_path / "weights.pth"
        torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), weights)
        here = (*here, f"arms.imagenet.model.encoder_weights={weights}")
    study = load_study(FOLDER / name, (*here, *BRIEFLY))
    outcome = run_study(study, store)
    assert [(run.arm, run.status) for run in outcome.runs] == [
        (arm, "FINISHED") for arm in study.arms
    ]
    if study.is_ablation:
        page = Path(str(outcome.report)).read_text(encoding="utf-8")
        assert "Five patients segmented by every arm" in page
        assert "Not ranked" not in page
