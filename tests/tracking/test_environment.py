"""Which code ran, also outside a checkout."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.tracking import environment
from seglab.tracking.connect import serve_ui
from seglab.tracking.environment import (
    PACKAGE,
    code_hash,
    environment_report,
    environment_tags,
    git_state,
)
from seglab.tracking.store import Store
from tests.faults.servers import free_port


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    package = tmp_path / "repo" / "seglab"
    shutil.copytree(PACKAGE / "core", package / "core")
    _git(tmp_path / "repo", "init", "-q")
    (tmp_path / "repo" / "mlruns").mkdir()
    (tmp_path / "repo" / "mlruns" / ".gitkeep").touch()
    _git(tmp_path / "repo", "add", "seglab", "mlruns")
    _git(tmp_path / "repo", "commit", "-q", "-m", "first")
    return package


def test_a_commit_and_whether_it_was_changed(checkout: Path) -> None:
    commit = _git(checkout, "rev-parse", "HEAD")
    (checkout.parent / "mlruns" / ".gitkeep").unlink()  # the folder was moved: no change of code
    state = git_state(checkout)
    assert state is not None
    assert (state.commit, state.dirty) == (commit, False)
    git_state.cache_clear()
    with (checkout / "core" / "errors.py").open("a") as source:
        source.write("# changed\n")
    changed = git_state(checkout)
    assert changed is not None
    assert (changed.commit, changed.dirty) == (commit, True)


def test_no_commit_outside_a_checkout(checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(checkout, tmp_path / "plain" / "seglab")
    assert git_state(tmp_path / "plain" / "seglab") is None
    installed = checkout.parent / "venv" / "seglab"  # inside the repository, not part of it
    shutil.copytree(checkout, installed)
    assert git_state(installed) is None


def _hash(package: Path) -> str:
    code_hash.cache_clear()
    return code_hash(package)


def test_the_hash_follows_what_can_change_a_result(checkout: Path) -> None:
    before = _hash(checkout)
    for file, text in (
        ("notes.txt", "no code"),
        ("core/errors.py", "X = 1\n"),
        ("core/config.py", "# a comment\n\n\n"),
    ):
        with (checkout / file).open("a") as stream:
            stream.write(text)
        assert _hash(checkout) == before, file
    config = (checkout / "core" / "config.py").read_text()
    (checkout / "core" / "config.py").write_text(config.replace('"""The configuration', '"""A'))
    assert _hash(checkout) == before
    (checkout / "core" / "config.py").write_text(config.replace("ge=32", "ge=33"))
    assert _hash(checkout) != before


def test_the_hash_follows_the_versions_of_packages(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _hash(checkout)
    real = environment.metadata.version
    monkeypatch.setattr(
        environment.metadata, "version", lambda name: "0" if name == "numpy" else real(name)
    )
    assert _hash(checkout) != before
    code_hash.cache_clear()


def test_tags_and_report_name_what_ran() -> None:
    report = environment_report()
    assert report["code_hash"] == environment_tags()["seglab.code_hash"] == code_hash()
    versions = report["versions"]
    assert isinstance(versions, dict)
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "mlflow", "numpy"} <= versions.keys()


def test_importing_the_package_does_not_import_mlflow() -> None:
    code = "import sys, seglab.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


def test_a_taken_port_is_said(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}"):
            serve_ui(store, port=port)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("time.sleep(0.5); socket.create_server(('127.0.0.1', int(sys.argv[1]))).accept()", 0),
        ("sys.exit(3)", 3),
    ],
)
def test_the_link_is_printed_once_the_server_answers(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: str,
    status: int,
) -> None:
    port = free_port()
    program = [sys.executable, "-c", f"import socket, sys, time; {code}", str(port)]
    start = subprocess.Popen

    def begin(command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        printed = capsys.readouterr().err
        assert "starting the MLflow UI" in printed
        assert "http" not in printed
        return start(program)

    monkeypatch.setattr(subprocess, "Popen", begin)
    assert serve_ui(store, port=port) == status
    assert (f"http://127.0.0.1:{port}" in capsys.readouterr().err) == (status == 0)
