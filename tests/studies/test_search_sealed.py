"""A search does not see the test patients: nothing in it depends on what their images show."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from seglab.core.study import load_study
from seglab.studies.data import open_data
from seglab.studies.search.worker import Reins, Task, work
from tests.studies.search_runs import trials, workbench_of

Dices = list[tuple[list[float], dict[int, float]]]


@pytest.fixture
def searched(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Path], Dices]:
    """Search in a folder of its own on the data of another; every Dice of every trial."""

    def search(name: str, data: Path) -> Dices:
        folder = tmp_path / name
        folder.mkdir()
        path = write(folder, epochs=2, trials=3, pruner={"name": "none"})
        document = yaml.safe_load(path.read_text())
        document["data"] |= {"root": str(data), "cache": str(folder / "cache")}
        path.write_text(yaml.safe_dump(document))
        monkeypatch.chdir(folder)
        study, parent_run_id = load_study(path), workbench_of(path).parent_run_id
        work(Task(study.document, parent_run_id, 1, datetime.now().isoformat()), Reins())
        return [(trial.values, trial.intermediate_values) for trial in trials()]

    return search


def with_noise(source: Path, folder: Path, patients: Sequence[str]) -> Path:
    """Copy a set; the images of these patients, but not their masks, show noise."""
    shutil.copytree(source, folder)
    random = np.random.default_rng(0)
    numbers = [int(name.rpartition("_")[2]) for name in patients]
    changed = [path for i in numbers for path in folder.rglob(f"volume_{i}_slice_*.h5")]
    assert changed
    for path in changed:
        with h5py.File(path, "r+") as file:
            image = file["image"]
            image[...] = random.normal(size=image.shape)
    return folder


@pytest.mark.slow
def test_test_images_change_no_dice_of_any_trial(
    searched: Callable[[str, Path], Dices],
    write: Callable[..., Path],
    six_phantoms: Path,
    tmp_path: Path,
) -> None:
    split = open_data(load_study(write()).run).split
    whole = searched("whole", six_phantoms / "set")
    assert len(whole) == 3
    assert all(len(curve) == 2 for _, curve in whole)
    other_test = with_noise(six_phantoms / "set", tmp_path / "test-noise", split.test)
    assert searched("other-test", other_test) == whole
    other_val = with_noise(six_phantoms / "set", tmp_path / "val-noise", split.val)
    assert searched("other-val", other_val) != whole
