"""Commands as users run them, with nothing of seglab imported but the entry point.

What these tests hold is what must not change while the inside is rewritten: names, keys, exit
codes, artifacts, and that results repeat to the bit. Each command is a process of its own at least
once (``run``); what is asked again or refused is run within the tests' (``call``), since a process
takes seconds to import torch and MLflow.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

ROOT = Path(__file__).resolve().parents[2]
LONGEST_S = 900.0
"""A command that takes longer hangs."""
PHANTOM = ("--patients", "9", "--size", "64", "--slices", "12", "--seed", "3")
SMALL: Mapping[str, Any] = {
    "split": {"fractions": [0.5, 0.25, 0.25]},
    "model": {"name": "unet", "base_channels": 4, "depth": 3},
    "augment": "mirror",
    "optim": {"lr": 0.02},
    "evaluation": {"overlays": 1},
    "train": {"epochs": 6, "batch_size": 4, "threads": 1, "device": "cpu"},
}
"""What a run of a second or two leaves to the experiment files below."""
FILES: Mapping[str, Mapping[str, Any]] = {
    "single": {},
    "ablation": {
        "seeds": [0, 1],
        "baseline": "bce_dice",
        "arms": {"bce_dice": {}, "bce": {"loss": "bce"}},
    },
    "sweep": {
        "search": {
            "trials": 2,
            "space": {"optim.lr": {"low": 0.003, "high": 0.03, "log": True}},
            "pruner": {"name": "median", "startup_trials": 1, "warmup_fraction": 0},
            "confirm": {"top": 0},
        }
    },
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout, as strict JSON."""
        value = json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
        assert isinstance(value, dict)
        return value

    def good(self) -> Ended:
        assert self.status == 0, f"ended with {self.status}: {self.err[-2000:]}"
        return self

    def refused(self, *words: str, lines: int | None = None) -> Ended:
        """Check that it ended as what the user can correct does: status 2, one error, no traceback.

        Args:
            words: what the error must name.
            lines: of stderr in all; None where others (progress, tables) may stand before it.
        """
        assert self.status == 2, f"ended with {self.status}: {self.err[-2000:]}"
        assert "Traceback" not in self.err
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        assert lines is None or len(self.err.splitlines()) == lines, self.err
        absent = [word for word in words if word not in errors[0]]
        assert not absent, f"{absent} not in: {errors[0]}"
        return self


def environment(code: Path) -> dict[str, str]:
    """The environment in which a checkout's commands run, on one thread."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {**kept, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(code)}


def start(folder: Path, *argv: str, code: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
    """Start ``run_experiment.py``, ``sweep.py`` or ``seglab …`` in a folder, in its own session.

    ``code`` is the checkout whose code it is; ``variables`` are added to its environment.
    """
    first = ["-m", "seglab"] if argv[0] == "seglab" else [str(code / argv[0])]
    return subprocess.Popen(
        [sys.executable, *first, *argv[1:]],
        cwd=folder,
        env={**environment(code), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *argv: str, code: Path = ROOT, **variables: str) -> Ended:
    """Run such a command to its end."""
    process = start(folder, *argv, code=code, **variables)
    try:
        out, err = process.communicate(timeout=LONGEST_S)
    finally:
        process.kill()
    return Ended(process.returncode, out, err)


def call(folder: Path, *argv: str) -> Ended:
    """Run such a command of this checkout within this process."""
    from seglab.cli.main import main

    script = {"run_experiment.py": ["run"], "sweep.py": ["sweep"], "seglab": []}[argv[0]]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        try:
            status = main([*script, *argv[1:]])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
    return Ended(status, out.getvalue(), err.getvalue())


def write_files(folder: Path, root: Path, **changes: Any) -> None:
    """Write the experiment files, on the data in ``root`` and with a cache in ``folder``."""
    data = {"source": "brats-h5", "root": str(root), "cache": str(folder / "cache")}
    for name, block in FILES.items():
        document = {"name": name, "data": {**data, "image_size": 64}, **SMALL, **block, **changes}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


COMMANDS: Mapping[str, str] = {
    "data phantom": "seglab data phantom --out phantoms " + " ".join(PHANTOM),
    "data check": "seglab data check --source brats-h5 --root phantoms",
    "data prepare": "seglab data prepare --source brats-h5 --root phantoms --size 64",
    "run_experiment": "run_experiment.py single.yaml",
    "ablation": "run_experiment.py ablation.yaml",
    "sweep": "sweep.py sweep.yaml",
    "compare": "seglab compare ablation",
    "promote": "seglab promote ablation",
    "report": "seglab report ablation",
    "artifacts": "seglab artifacts {run} --out downloaded",
    "reproduce": "seglab reproduce {run}",
    "predict": "seglab predict ablation@champion new --out masks",
}
NEEDS: Mapping[str, tuple[str, ...]] = {
    "data phantom": (),
    "compare": ("ablation",),
    "promote": ("ablation",),
    "report": ("ablation", "promote"),
    "artifacts": ("run_experiment",),
    "reproduce": ("run_experiment",),
    "predict": ("promote",),
}
"""What must have been run before; the phantoms, where nothing is said."""


@dataclass
class Study:
    """A folder with phantoms and a store; a command is run once, when a test first asks for it."""

    folder: Path
    code: Path = ROOT
    ended: dict[str, Ended] = field(default_factory=dict)

    def ask(self, name: str) -> Ended:
        """Run a command, and before it what it needs; it must end well."""
        if name not in self.ended:
            for need in NEEDS.get(name, ("data phantom",)):
                self.ask(need)
            line = COMMANDS[name]
            run_id = self.run_id if "{run}" in line else ""
            argv = line.format(run=run_id).split()
            self.ended[name] = run(self.folder, *argv, "--json", code=self.code).good()
        return self.ended[name]

    @property
    def phantoms(self) -> Path:
        self.ask("data phantom")
        return self.folder / "phantoms"

    @property
    def run_id(self) -> str:
        """Of the single run."""
        return str(self.ask("run_experiment").json["runs"][0]["run_id"])

    def call(self, *argv: str) -> Ended:
        """Run another command here, of this checkout and within this process."""
        return call(self.folder, *argv)


def make_study(folder: Path, code: Path = ROOT, **changes: Any) -> Study:
    """Make the folder of a study, with phantoms; ``changes`` are laid over its experiment files."""
    write_files(folder, folder / "phantoms", **changes)
    study = Study(folder, code)
    (folder / "new").mkdir()
    for path in study.phantoms.rglob("volume_2_slice_*.h5"):
        shutil.copy(path, folder / "new")
    return study


def copy_of(study: Study, folder: Path) -> Path:
    """Copy a study's folder, for this version's commands.

    Another process copies: closing a database file would drop the locks that SQLite holds on it
    for this process's own connections, and those would go on reading a log that others have
    removed (sqlite.org/howtocorrupt.html, section 2.2).
    """
    subprocess.run(["cp", "-R", str(study.folder), str(folder)], check=True)
    return folder


def epochs_logged(folder: Path) -> int:
    """Epochs in the store of a folder, read beside MLflow, which would set it up."""
    try:
        with sqlite3.connect(f"file:{folder / 'mlruns/mlflow.db'}?mode=ro", uri=True) as database:
            rows = database.execute("select step from metrics where key = 'train/loss'")
            return len(rows.fetchall())
    except sqlite3.Error:
        return 0


class Store:
    """The store of a folder, through MLflow's own client."""

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        uri = uri or f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"
        self.client = MlflowClient(uri, uri)

    def runs(self, experiment: str) -> list[Run]:
        found = self.client.get_experiment_by_name(experiment)
        assert found is not None, f"no experiment {experiment}"
        return list(self.client.search_runs([found.experiment_id]))

    def tree(self, run_id: str, path: str | None = None) -> set[str]:
        """Every file that a run logged."""
        files: set[str] = set()
        for one in self.client.list_artifacts(run_id, path):
            files |= self.tree(run_id, one.path) if one.is_dir else {one.path}
        return files

    def file(self, run_id: str, path: str) -> Path:
        return Path(self.client.download_artifacts(run_id, path))

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Every (step, value) of a metric, in the order of steps."""
        return sorted((m.step, m.value) for m in self.client.get_metric_history(run_id, key))
