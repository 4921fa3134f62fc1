"""Artifacts survive a folder that is moved or copied."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from seglab.tracking.connect import open_store, prepare_database
from seglab.tracking.run import start_run
from seglab.tracking.store import Store


def _run_with_artifact(store: Store) -> str:
    with start_run(store, "my losses", "run") as run:
        run.text("hello", "gallery/index.html")
    return run.run_id


def _read(store: Store, run_id: str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    path = store.client.download_artifacts(run_id, "gallery/index.html", str(folder))
    return Path(path).read_text()


def test_moved_copied_and_moved_back(store: Store, tmp_path: Path) -> None:
    run_id = _run_with_artifact(store)
    # Names of which one begins with the other are where a careless rewrite goes wrong.
    places = [tmp_path / name for name in ("mlruns2", "mlruns2/deeper", "ä b/mlruns", "mlruns")]
    here = store.folder
    for place in places:
        between = tmp_path / "between"
        shutil.move(here, between)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(between, place)
        here = place
        moved = open_store(place)
        assert _read(moved, run_id, tmp_path / "got") == "hello"
        assert Path(moved.client.get_run(run_id).info.artifact_uri).is_relative_to(place)
        new_id = _run_with_artifact(moved)
        assert (place / "artifacts" / "my_losses" / new_id).is_dir()

    copied = tmp_path / "copy"
    shutil.copytree(here, copied)
    assert _read(open_store(copied), run_id, tmp_path / "got") == "hello"
    assert Path(open_store(copied).client.get_run(run_id).info.artifact_uri).is_relative_to(copied)
    assert Path(open_store(here).client.get_run(run_id).info.artifact_uri).is_relative_to(here)


def test_registered_models_move_too(store: Store, tmp_path: Path) -> None:
    run_id = _run_with_artifact(store)
    source = str(store.folder / "artifacts" / "my_losses" / run_id / "artifacts" / "gallery")
    store.client.create_registered_model("unet")
    store.client.create_model_version("unet", source, run_id)
    shutil.move(store.folder, tmp_path / "moved")
    moved = open_store(tmp_path / "moved")
    uri = Path(moved.client.get_model_version_download_uri("unet", "1"))
    assert (uri / "index.html").read_text() == "hello"


def test_foreign_locations_are_left_alone(store: Store, tmp_path: Path) -> None:
    foreign = ["s3://bucket/mlruns/artifacts", str(tmp_path / "mlruns-other" / "artifacts")]
    ids = [store.client.create_experiment(name, artifact_location=name) for name in foreign]
    shutil.move(store.folder, tmp_path / "moved")
    moved = open_store(tmp_path / "moved")
    assert [moved.client.get_experiment(key).artifact_location for key in ids] == foreign


def test_a_database_that_mlflow_made_is_taken_over(store: Store, tmp_path: Path) -> None:
    run_id = _run_with_artifact(store)
    with sqlite3.connect(store.folder / "mlflow.db") as connection:
        connection.execute("DROP TABLE seglab_home")
    prepare_database(store.folder / "mlflow.db")
    shutil.move(store.folder, tmp_path / "moved")
    assert _read(open_store(tmp_path / "moved"), run_id, tmp_path / "got") == "hello"
