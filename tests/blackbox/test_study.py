"""The JSON of every command, and what MLflow holds after it: DESIGN's names, at least."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from mlflow.entities import Run

from tests.blackbox.commands import FILES, SMALL, Store, Study, call, copy_of

pytestmark = pytest.mark.slow

TRIALS = FILES["sweep"]["search"]["trials"]
EPOCHS = list(range(1, SMALL["train"]["epochs"] + 1))
TYPES = {
    "text": (str,),
    "int": (int,),
    "number": (int, float),
    "bool": (bool,),
    "list": (list,),
    "object": (dict,),
    "null": (type(None),),
}
TRAINING = (
    "experiment:text parent_run_id:text|null report:text|null runs[].run_id:text runs[].arm:text "
    "runs[].seed:int runs[].status:text runs[].val/dice:number runs[].val/iou:number "
    "runs[].train_seconds:number"
)
KEYS = {
    "data phantom": "out:text patients:int slices:int",
    "data check": "patients:int slices:int tumour_slices:int missing_files[]:text "
    "bad_files[].file:text bad_files[].reason:text duplicates:list shared_patients:list "
    "identity.ok:bool identity.channel:int|null identity.evidence:object|list",
    "data prepare": "cache:text slices:int bytes:int seconds:number reused:bool",
    "run_experiment": TRAINING,
    "ablation": TRAINING,
    "sweep": "experiment:text parent_run_id:text study:text trials.complete:int trials.pruned:int "
    "trials.failed:int best.run_id:text best.value:number best.params:object best_config:text "
    "report:text",
    "compare": "experiment:text baseline:text n_patients:int arms[].arm:text arms[].mean:number "
    "arms[].diff:number arms[].ci_low:number|null arms[].ci_high:number|null arms[].p:number|null "
    "arms[].p_holm:number|null arms[].verdict:text",
    "promote": "run_id:text promoted_run_id:text model_uri:text confirmatory:bool "
    "test/dice:number test/dice_ci[]:number test/iou:number operating_point.threshold:number",
    "predict": "outputs[].input:text outputs[].mask:text outputs[].overlay:text "
    "outputs[].volume_ml:number|null outputs[].warnings[]:text failed[].input:text "
    "failed[].reason:text",
    "artifacts": "run_id:text files[]:text bytes:int",
    "reproduce": "run_id:text new_run_id:text equal:bool differences[]:text",
    "report": "experiment:text report:text",
}
"""Of each command: where a value is, with ``[]`` for every item of a list, and its types."""


def tags(names: str) -> set[str]:
    return {f"seglab.{name}" for name in names.split()}


OF_THE_STUDY = tags("kind data_hash split_hash code_hash git_commit git_dirty")
OF_THE_RUN = OF_THE_STUDY | tags("arm seed config_hash device precision")
COST = {
    *("cost/train_seconds", "cost/images", "cost/images_per_second"),
    *("cost/gflops_per_image", "cost/parameters_m", "cost/peak_memory_mb"),
}
SCORES = {
    *("val/dice", "val/iou", "val/dice_slice_tumour", "val/dice_slice_empty1"),
    *("val/dice_pooled", "val/empty_slice_fp_rate", "val/lesion_f1", "val/hd95_mm", "val/nsd_2mm"),
}
EACH_EPOCH = {"train/loss", "val/loss", "val/dice", "val/iou", "lr"}
LOGGED = {"config.yaml", "split.json", "patients_val.csv"}
DRAWN = {"curves.png", "gallery/index.html"}
PARAMS = {
    **{"arm": "single", "seed": "0", "name": "single", "data.source": "brats-h5"},
    **{"data.image_size": "64", "model.name": "unet", "model.base_channels": "4"},
    **{"loss.name": "bce_dice", "augment.name": "mirror", "optim.lr": "0.02"},
    **{"train.epochs": "6", "train.batch_size": "4", "split.seed": "0"},
}


def values_at(found: Any, path: str) -> Iterator[Any]:
    """Every value that is where ``path`` says; fails where something on the way is missing."""
    if not path:
        yield found
    elif path.startswith("[]"):
        assert isinstance(found, list)
        for item in found:
            yield from values_at(item, path[2:].removeprefix("."))
    else:
        key = path.split(".")[0].split("[]")[0]
        assert key in found, f"{path}: no key '{key}'"
        yield from values_at(found[key], path.removeprefix(key).removeprefix("."))


@pytest.mark.parametrize("command", KEYS)
def test_json_has_the_agreed_keys(study: Study, command: str) -> None:
    found = study.ask(command).json
    for path, names in (entry.rsplit(":", 1) for entry in KEYS[command].split()):
        allowed = [kind for name in names.split("|") for kind in TYPES[name]]
        assert all(type(value) in allowed for value in values_at(found, path)), path


def test_json_says_what_was_done(study: Study) -> None:
    phantoms, checked = study.ask("data phantom").json, study.ask("data check").json
    assert (phantoms["patients"], phantoms["slices"]) == (9, 108)
    assert (checked["patients"], checked["slices"]) == (9, 108)
    assert not checked["bad_files"]
    assert not checked["missing_files"]
    assert checked["identity"]["ok"]
    runs = study.ask("ablation").json["runs"]
    wanted = {(arm, seed) for arm in ("bce_dice", "bce") for seed in (0, 1)}
    assert {(one["arm"], one["seed"]) for one in runs} == wanted
    compared = study.ask("compare").json
    assert (compared["baseline"], compared["n_patients"]) == ("bce_dice", 2)
    (bce,) = [one for one in compared["arms"] if one["arm"] == "bce"]
    assert (bce["ci_low"], bce["ci_high"]) == (None, None), "two patients carry no interval"
    again = study.ask("reproduce").json
    assert again["equal"], again["differences"]
    assert again["run_id"] == study.run_id != again["new_run_id"]


def test_reports_and_downloads_are_there(study: Study) -> None:
    pages = [study.ask(name).json["report"] for name in ("ablation", "report", "sweep")]
    assert all("<html" in (study.folder / page).read_text(encoding="utf-8") for page in pages)
    found = study.ask("sweep").json
    best = yaml.safe_load((study.folder / found["best_config"]).read_text(encoding="utf-8"))
    assert best["optim"]["lr"] == pytest.approx(found["best"]["params"]["optim.lr"])
    downloaded = study.ask("artifacts").json
    files = [study.folder / "downloaded" / name for name in downloaded["files"]]
    assert sum(path.stat().st_size for path in files) == downloaded["bytes"]
    assert set(downloaded["files"]) == Store(study.folder).tree(study.run_id)


def test_predict_writes_one_mask_with_its_volume(study: Study) -> None:
    (one,) = study.ask("predict").json["outputs"]
    assert (study.folder / one["overlay"]).is_file()
    image = nib.load(study.folder / one["mask"])
    mask = np.asarray(image.dataobj)
    assert mask.shape == (64, 64, 12)
    assert set(np.unique(mask)) <= {0, 1}
    voxel_mm3 = math.prod(float(step) for step in image.header.get_zooms())
    assert one["volume_ml"] == pytest.approx(mask.sum() * voxel_mm3 / 1000, rel=1e-3)


def child_runs(store: Store, parent: Run, experiment: str) -> list[Run]:
    assert "mlflow.parentRunId" not in parent.data.tags
    return [
        run
        for run in store.runs(experiment)
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]


def assert_has(
    store: Store, run: Run, kind: str, tags: set[str], metrics: set[str], files: set[str]
) -> None:
    """Check a finished run; it may have more, but no figure of a test before its promotion."""
    assert (run.info.status, run.data.tags["seglab.kind"]) == ("FINISHED", kind)
    assert not tags - run.data.tags.keys()
    assert not metrics - run.data.metrics.keys()
    assert not files - store.tree(run.info.run_id)
    assert kind == "promotion" or not [name for name in run.data.metrics if "test/" in name]


def assert_trained(store: Store, run: Run) -> None:
    assert_has(store, run, "train", OF_THE_RUN, EACH_EPOCH | SCORES | COST, LOGGED | DRAWN)
    assert run.inputs.dataset_inputs
    tree = store.tree(run.info.run_id)
    for folder, suffix in (("checkpoints/", ".safetensors"), ("overlays/", ".png")):
        assert [path for path in tree if path.startswith(folder) and path.endswith(suffix)], folder


def test_a_run_in_the_store(study: Study) -> None:
    store = Store(study.folder)
    run = store.client.get_run(study.run_id)
    assert_trained(store, run)
    (told,) = study.ask("run_experiment").json["runs"]
    assert told["val/dice"] == run.data.metrics["val/dice"]
    assert told["train_seconds"] == run.data.metrics["cost/train_seconds"]
    assert {key: run.data.params.get(key) for key in PARAMS} == PARAMS
    for key in EACH_EPOCH:
        steps = [step for step, _ in store.history(study.run_id, key)]
        assert steps == EPOCHS, key


def test_the_artifacts_of_a_run_can_be_used(study: Study) -> None:
    files = ("config.yaml", "split.json", "patients_val.csv", "gallery/index.html")
    paths = [Store(study.folder).file(study.run_id, name) for name in files]
    config, split, table, page = (path.read_text(encoding="utf-8") for path in paths)
    assert yaml.safe_load(config)["train"]["epochs"] == len(EPOCHS)
    parts = [set(json.loads(split)[part]) for part in ("train", "val", "test")]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 9
    assert len(table.splitlines()) == 1 + len(parts[1])
    assert str(study.folder) not in page, "whose disk it was"


def test_an_ablation_in_the_store(study: Study) -> None:
    store, told = Store(study.folder), study.ask("ablation").json
    parent = store.client.get_run(told["parent_run_id"])
    of_it = OF_THE_STUDY | tags("config_hash")
    assert_has(store, parent, "ablation", of_it, set(), {"report/report.html"})
    found = child_runs(store, parent, "ablation")
    assert {run.info.run_id for run in found} == {one["run_id"] for one in told["runs"]}
    for run in found:
        assert_trained(store, run)
    for tag in tags("split_hash data_hash code_hash"):
        assert len({run.data.tags[tag] for run in found}) == 1, tag


def test_a_search_in_the_store(study: Study) -> None:
    store, told = Store(study.folder), study.ask("sweep").json
    parent = store.client.get_run(told["parent_run_id"])
    assert_has(store, parent, "sweep", OF_THE_STUDY, set(), {"best.yaml", "sweep.yaml"})
    trials = child_runs(store, parent, "sweep")
    pruned = [run for run in trials if "seglab.pruned_at_epoch" in run.data.tags]
    complete = [run for run in trials if run not in pruned]
    for run in complete:
        assert_has(store, run, "trial", OF_THE_RUN, SCORES | COST, LOGGED)
    assert all(run.info.status == "KILLED" for run in pruned)
    counts = {"complete": len(complete), "pruned": len(pruned), "failed": 0}
    assert told["trials"] == counts
    assert sum(counts.values()) == TRIALS
    best = next(run for run in complete if run.info.run_id == told["best"]["run_id"])
    assert best.data.metrics["val/dice"] == told["best"]["value"]


def test_a_promotion_in_the_store(study: Study) -> None:
    store, told = Store(study.folder), study.ask("promote").json
    run = store.client.get_run(told["run_id"])
    files = {"config.yaml", "split.json", "operating_point.json"}
    assert_has(store, run, "promotion", OF_THE_RUN, {"test/dice", "test/iou"}, files)
    assert (told["confirmatory"], run.data.tags["seglab.confirmatory"]) == (True, "true")
    assert told["test/dice"] == pytest.approx(run.data.metrics["test/dice"])
    low, high = told["test/dice_ci"]
    assert low <= told["test/dice"] <= high
    trained = {one["run_id"]: one["val/dice"] for one in study.ask("ablation").json["runs"]}
    assert told["promoted_run_id"] == max(trained, key=lambda run_id: trained[run_id])
    assert told["model_uri"] == "models:/ablation@champion"
    version = store.client.get_model_version_by_alias("ablation", "champion")
    assert version.run_id == told["run_id"]
    other = next(run_id for run_id in trained if run_id != told["promoted_run_id"])
    study.call("seglab", "promote", other).refused("--reopen")


def test_a_finished_search_is_not_searched_again(study: Study) -> None:
    before = study.ask("sweep").json
    again = study.call("sweep.py", "sweep.yaml", "--json").good().json
    same = ("parent_run_id", "study", "trials", "best")
    assert {key: again[key] for key in same} == {key: before[key] for key in same}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("artifacts 0123456789abcdef --out nothing", "0123456789abcdef"),
        ("promote 0123456789abcdef", "0123456789abcdef"),
        ("predict 0123456789abcdef new --out nothing", "0123456789abcdef"),
        ("compare ablation --baseline bcee", "bcee"),
        ("explain nothing", "nothing"),
    ],
)
def test_what_the_store_does_not_have_is_refused(study: Study, line: str, word: str) -> None:
    study.ask("ablation")
    study.call("seglab", *line.split()).refused(word)


def test_deletion_of_a_promotion_does_not_seal_the_test_again(study: Study, tmp_path: Path) -> None:
    promotion = study.ask("promote").json["run_id"]
    study.ask("run_experiment")
    folder = copy_of(study, tmp_path / "copy")
    store = Store(folder)
    store.client.delete_run(promotion)
    call(folder, "seglab", "promote", "single").refused("--reopen")
    (ablation,) = {one.info.experiment_id for one in store.runs("ablation")}
    store.client.delete_experiment(ablation)
    call(folder, "seglab", "promote", "single").refused("--reopen")
    database = f"sqlite:///{folder / 'mlruns/mlflow.db'}"
    gc = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", database]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": database}
    subprocess.run([*gc, "--run-ids", promotion], check=True, env=environment)
    call(folder, "seglab", "promote", "single").refused("--reopen")
