"""Processes for commands, forked from one that has done a run of its own.

A command that starts anew imports for seconds, and most of the moments at which it could be
killed would fall there. Apart from that a forked one is the real thing: it is a process of its
own, in a session, folder and environment of its own, and ends as the script would.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from seglab.tracking.quiet import settle_mlflow

SCRIPTS = {"run_experiment.py": "seglab.cli.train", "sweep.py": "seglab.cli.sweep"}
IMPORTED = (
    "mlflow.pyfunc",
    "seglab.cli.main",
    "seglab.cli.train",
    "seglab.cli.sweep",
    "seglab.data.download",
    "seglab.studies.components",
    "seglab.studies.ablation",
    "seglab.studies.promotion",
    "seglab.studies.search.parent",
)


class Forked:
    """A running command; as much of ``subprocess.Popen`` as the campaign needs."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid, self._nursery = pid, nursery
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit status, minus the signal's number if one ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"poll": self.pid})
        return self.returncode


class Nursery:
    """The process that forks; it ends when this one does."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )

    def warm(self, folder: Path) -> None:
        """Do the run of ``folder``, and make the empty store ``empty`` there."""
        assert self.ask({"warm": str(folder)}) == 0, f"the run in {folder} does not end well"

    def start(
        self, arguments: Sequence[str], output: tuple[Path, Path], environment: Mapping[str, str]
    ) -> Forked:
        """Start a command in the folder of the files that its two streams go to."""
        files = [str(path) for path in output]
        request = {"argv": list(arguments), "files": files, "environment": dict(environment)}
        return Forked(self, self.ask(request))

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Put a request, a line of JSON, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def serve() -> int:
    """Fork a command for each request; returns, in the child, the command's exit status."""
    settle_mlflow()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif "warm" in request:
            answer = _warm(Path(request["warm"]))
        else:
            answer = os.fork()
            if answer == 0:
                return _become(request)
        print(json.dumps(answer), flush=True)
    return 0


def _become(request: Mapping[str, Any]) -> int:
    """Be the command that was asked for."""
    os.setsid()
    os.chdir(Path(request["files"][0]).parent)
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    files = [os.open(os.devnull, os.O_RDONLY)]
    files += [
        os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for name in request["files"]
    ]
    for number, file in enumerate(files):
        os.dup2(file, number)
    program, *rest = request["argv"]
    sys.argv = [program, *rest]
    if program == "-c":
        exec(rest[0], {"__name__": "__main__"})  # ends by itself
    if program == "-m":
        module, rest = "seglab.cli.main", rest[1:]
    else:
        module = SCRIPTS[Path(program).name]
    return int(importlib.import_module(module).main(rest))


def _warm(folder: Path) -> int:
    """Import and set up what commands need, by doing one."""
    for name in IMPORTED:
        importlib.import_module(name)
    os.chdir(folder)
    importlib.import_module("seglab.tracking").open_store(Path("empty"))
    with Path("out").open("w") as out, redirect_stdout(out):
        return int(importlib.import_module("seglab.cli.train").main(["run.yaml"]))


if __name__ == "__main__":
    sys.exit(serve())
