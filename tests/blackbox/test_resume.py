"""A training killed with SIGKILL, and the same command again."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.blackbox.commands import (
    LONGEST_S,
    SMALL,
    Store,
    Study,
    call,
    epochs_logged,
    run,
    start,
    write_files,
)


def results(store: Store, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """The whole course of every metric that must repeat; seconds and megabytes do not."""
    names = store.client.get_run(run_id).data.metrics
    lasting = [name for name in names if name.startswith(("train/", "val/", "lr"))]
    return {name: store.history(run_id, name) for name in lasting}


def weights(store: Store, run_id: str) -> Mapping[str, np.ndarray]:
    paths = [path for path in store.tree(run_id) if path.endswith(".safetensors")]
    return {
        f"{path}:{name}": values
        for path in paths
        for name, values in load_file(store.file(run_id, path)).items()
    }


def kill_amid(process: subprocess.Popen[str], folder: Path) -> None:
    """Let a training do two of its epochs, and end it with SIGKILL."""
    deadline = time.monotonic() + LONGEST_S
    while epochs_logged(folder) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    assert 2 <= epochs_logged(folder) < SMALL["train"]["epochs"], "not killed amid its epochs"


@pytest.mark.slow
def test_killed_it_goes_on_and_ends_equal_to_the_bit(study: Study, tmp_path: Path) -> None:
    write_files(tmp_path, study.phantoms)
    kill_amid(start(tmp_path, "run_experiment.py", "single.yaml"), tmp_path)
    resumed, undisturbed = Store(tmp_path), Store(study.folder)
    (dead,) = resumed.runs("single")
    run_id = dead.info.run_id
    assert dead.info.status == "RUNNING"
    promoted = call(tmp_path, "seglab", "promote", run_id, "--json").refused(run_id[:8])
    assert promoted.out == "", "what is not finished is not tested"

    ended = run(tmp_path, "run_experiment.py", "single.yaml", "--json").good()
    (one,) = ended.json["runs"]
    assert (one["run_id"], one["status"]) == (run_id, "FINISHED")
    assert not re.search(r"epoch +1/", ended.err), "it goes on, and does not begin again"
    assert results(resumed, run_id) == results(undisturbed, study.run_id)
    ours, theirs = weights(resumed, run_id), weights(undisturbed, study.run_id)
    assert ours.keys() == theirs.keys() != set()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    scores = "patients_val.csv"
    of_theirs = undisturbed.file(study.run_id, scores).read_bytes()
    assert resumed.file(run_id, scores).read_bytes() == of_theirs

    again = call(tmp_path, "run_experiment.py", "single.yaml", "--json").good()
    assert again.json["runs"][0]["run_id"] == run_id
    assert not re.search(r"epoch +\d+/", again.err), "what is finished trains nothing"
    assert len(resumed.runs("single")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "name", "kind", "count"),
    [("run_experiment.py", "ablation", "train", 4), ("sweep.py", "sweep", "trial", 3)],
)
def test_the_same_command_twice_at_once_shares_the_work(
    study: Study, tmp_path: Path, script: str, name: str, kind: str, count: int
) -> None:
    write_files(tmp_path, study.phantoms)
    words = ["search.trials=3"] if name == "sweep" else []
    both = [start(tmp_path, script, f"{name}.yaml", *words, "--json") for _ in range(2)]
    ended = [(process.communicate(timeout=LONGEST_S), process.returncode) for process in both]
    assert [status for _, status in ended] == [0, 0], ended
    runs = Store(tmp_path).runs(name)
    ours = [run for run in runs if run.data.tags["seglab.kind"] == kind]
    assert len(ours) == count == len({run.data.tags["seglab.config_hash"] for run in ours})
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in ours}
    assert {run.info.run_id for run in runs} == {parent} | {run.info.run_id for run in ours}
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    assert Store(tmp_path).client.get_run(parent).info.status == "FINISHED"
    assert {json.loads(out)["parent_run_id"] for (out, _), _ in ended} == {parent}
