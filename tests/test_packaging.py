"""What an installation brings along, and what is told outside of one."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]


def test_requirements_are_those_of_the_package_with_its_extras() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    assert requirements("requirements.txt") == [
        *project["dependencies"],
        *(line for extra in extras.values() for line in extra),
    ]


def test_the_lock_pins_every_package_and_names_no_host() -> None:
    lines = requirements("requirements.lock")
    assert all("==" in line.partition(";")[0] and "://" not in line for line in lines)
    locked = {line.partition("==")[0].partition("[")[0] for line in lines}
    wanted = {
        line.partition(";")[0].partition("[")[0].split("=")[0].rstrip("<>~ ").lower()
        for line in requirements("requirements.txt")
    }
    assert wanted <= locked


@pytest.mark.parametrize("package", ["seglab", "seglab.experiments"])
def test_every_file_of_the_package_is_installed(package: str) -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"][package]
    folder = ROOT / package.removeprefix("seglab.")
    installed = {path for pattern in patterns for path in folder.glob(pattern)}
    files = (path for path in folder.rglob("*") if path.is_file())
    assert installed == {path for path in files if path.suffix not in (".py", ".pyc")}


POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios"}
POSIX_NAMES = {
    *("os.fork", "os.getuid", "os.kill", "os.killpg", "os.mkfifo", "os.nice", "os.setsid"),
    *("os.symlink", "os.uname", "os.sched_getaffinity", "signal.SIGKILL", "signal.SIGHUP"),
    *("signal.SIGUSR1", "signal.alarm", "signal.pause"),
}


@pytest.mark.parametrize("path", sorted((ROOT / "seglab").rglob("*.py")), ids=lambda p: p.name)
def test_nothing_that_windows_lacks_is_imported_or_called(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}
    found |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not found & POSIX_MODULES
    assert not used & POSIX_NAMES


@pytest.mark.parametrize("program", ["run_experiment.py", "sweep.py", "-mseglab"])
def test_outside_the_environment_one_line_says_how_to_get_in(program: str) -> None:
    bare = [sys.executable, "-S", program]  # -S: without any installed package
    ended = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "has no package torch" in ended.stderr
    assert f".venv/bin/python {program.replace('-m', '-m ')}" in ended.stderr
