"""Folders in which real commands work on tiny phantoms, and how an undisturbed one ends."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tests.faults.holdings import Holdings, read_holdings
from tests.faults.nursery import Forked, Nursery
from tests.faults.processes import outlived

ROOT = Path(__file__).resolve().parents[2]
Command = subprocess.Popen[bytes] | Forked
LONGEST_S = 600.0
"""A command that takes longer hangs."""
PHANTOMS = {"patients": 6, "size": 48, "slices": 10, "seed": 3, "workers": 1}
SEARCH = {
    "trials": 3,
    "space": {"optim.lr": {"low": 1e-4, "high": 2e-2, "log": True}},
    "pruner": {"name": "none"},
    "confirm": {"top": 0},
}
BLOCKS: Mapping[str, Mapping[str, Any]] = {
    "run": {},
    "ablation": {"arms": {"bce_dice": {}, "bce": {"loss": {"name": "bce"}}}},
    "sweep": {"search": SEARCH},
}
COMMANDS: Mapping[str, Sequence[str]] = {
    "run": ("run_experiment.py", "run.yaml", "--json"),
    "ablation": ("run_experiment.py", "ablation.yaml", "--json"),
    "sweep": ("sweep.py", "sweep.yaml", "--json"),
    "promote": ("-m", "seglab", "promote", "run", "--json"),
    "sync": ("-m", "seglab", "sync", "--json"),
}
NEEDS = {"promote": "run"}
"""A command that works on what another one left."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass
class Place:
    """A working folder of its own."""

    folder: Path
    nursery: Nursery
    environment: dict[str, str] = field(default_factory=dict)
    suffix: str = ""
    """Of the files that a command writes to, where two work here at once."""

    def start(self, arguments: Sequence[str], *, anew: bool = False) -> Command:
        """Start a command here, in a session of its own.

        Args:
            arguments: of Python.
            anew: start an interpreter, for what must be in its environment from the beginning.
        """
        if not anew:
            return self.nursery.start(arguments, self._output, self._environment())
        # Files, not pipes: nobody reads while the fault is being injected.
        with self._output[0].open("wb") as out, self._output[1].open("wb") as err:
            return subprocess.Popen(
                [sys.executable, *_absolute(arguments)],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def _output(self) -> tuple[Path, Path]:
        return self.folder / f"out{self.suffix}", self.folder / f"err{self.suffix}"

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "KAGGLE"))}
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
        return inherited | own | self.environment

    def wait(self, command: Command, wait_s: float = LONGEST_S) -> Ended:
        """Wait for a command's end; a hang is a finding."""
        if not outlived(command, wait_s):
            os.killpg(command.pid, signal.SIGKILL)
            raise AssertionError(f"hangs after {wait_s:.0f} s: {self.said()}")
        assert command.returncode is not None
        return Ended(command.returncode, self._output[0].read_text(), self.said())

    def said(self) -> str:
        """What the last command wrote to its error stream."""
        err = self._output[1]
        return err.read_text(errors="replace") if err.exists() else ""

    def end(self, arguments: Sequence[str]) -> Ended:
        """Run a command to its end, whatever that is."""
        return self.wait(self.start(arguments))

    def finish(self, arguments: Sequence[str]) -> Ended:
        """Run a command to its good end."""
        ended = self.end(arguments)
        assert ended.status == 0, f"ended with {ended.status}: {ended.err[-1500:]}"
        return ended


@dataclass(frozen=True)
class Undisturbed:
    """A command that nothing happened to."""

    holdings: Holdings
    seconds: float
    folder: Path


class Workshop:
    """Makes places, and remembers what undisturbed commands leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nursery = Nursery()
        warm = self._write(self.folder / "warm")
        self.nursery.warm(warm)  # fills the cache, too
        self._empty = warm / "empty"
        self._known: dict[str, Undisturbed] = {}

    @cached_property
    def phantoms(self) -> Path:
        """Patients in the Kaggle layout."""
        from seglab.data.phantom import write_phantom

        write_phantom(self.folder / "phantoms", **PHANTOMS)  # found, if it is there
        return self.folder / "phantoms"

    def place(self, needs: str | None = None) -> Place:
        """Make a fresh folder with the experiment files, on top of what ``needs`` left."""
        folder = self._write(Path(tempfile.mkdtemp(prefix="place-", dir=self.folder)))
        # Making a store takes seconds; that it may be killed in between has a test of its own.
        store = self._empty if needs is None else self.undisturbed(needs).folder / "mlruns"
        shutil.copytree(store, folder / "mlruns")
        return Place(folder, self.nursery)

    def _write(self, folder: Path) -> Path:
        """Write the experiment files."""
        folder.mkdir(exist_ok=True)
        for name, block in BLOCKS.items():
            document = {"name": name, **self._document(), **block}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
        return folder

    def _document(self) -> dict[str, Any]:
        return {
            "data": {
                "source": "brats-h5",
                "root": str(self.phantoms),
                "cache": str(self.folder / "cache"),
                "image_size": 48,
                "crop": "none",
                "workers": 1,
            },
            "split": {"fractions": [0.5, 0.25, 0.25]},
            "model": {"name": "unet", "base_channels": 4, "depth": 2},
            "optim": {"lr": 0.01},
            "train": {"epochs": 5, "batch_size": 4, "threads": 1, "device": "cpu"},
        }

    def undisturbed(self, name: str) -> Undisturbed:
        """Run a command as it should be, once."""
        known = self.folder / f"undisturbed-{name}.pickle"
        if name not in self._known and known.exists():
            self._known[name] = pickle.loads(known.read_bytes())
        if name not in self._known:
            place = self.place(NEEDS.get(name))
            started = time.monotonic()
            place.finish(COMMANDS[name])
            seconds = time.monotonic() - started
            holdings = read_holdings(place.folder / "mlruns")
            self._known[name] = Undisturbed(holdings, seconds, place.folder)
            known.write_bytes(pickle.dumps(self._known[name]))
        return self._known[name]

    def clear(self, place: Place) -> None:
        """Remove a place that nothing was found in."""
        shutil.rmtree(place.folder, ignore_errors=True)


def _absolute(arguments: Sequence[str]) -> list[str]:
    return [
        str(ROOT / one) if one in {"run_experiment.py", "sweep.py"} else one for one in arguments
    ]
