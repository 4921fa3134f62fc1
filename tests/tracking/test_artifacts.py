"""Downloads: complete, resumable, and never outside the folder."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.tracking import artifacts
from seglab.tracking.artifacts import download
from seglab.tracking.run import start_run
from seglab.tracking.store import Store

CONTENT = {
    "config.yaml": b"name: x\n",
    "overlays/best ü.png": os.urandom(3000),
    "overlays/worst.png": os.urandom(100),
    "checkpoints/best.safetensors": os.urandom(300_000),
    "empty.txt": b"",
}
HASHES = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


@pytest.fixture
def run_id(store: Store, tmp_path: Path) -> str:
    return _logged(store, tmp_path)


def _logged(store: Store, tmp_path: Path) -> str:
    with start_run(store, "downloads", "run") as run:
        for name, content in CONTENT.items():
            path = tmp_path / "made" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            run.artifact(path, "" if "/" not in name else name.split("/")[0])
    return run.run_id


def _hashes(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["store", "remote"])
def test_every_file_with_equal_hashes(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store: Store = request.getfixturevalue(kind)
    run_id = _logged(store, tmp_path)
    out = tmp_path / "out"
    report = download(store, run_id, out)
    assert _hashes(out) == HASHES
    assert report.files == tuple(sorted(CONTENT))
    assert report.bytes == sum(map(len, CONTENT.values()))
    (out / "overlays" / "worst.png").write_bytes(b"half")
    (out / "config.yaml").unlink()
    download(store, run_id, out)
    assert _hashes(out) == HASHES


def test_a_pattern_takes_a_part(store: Store, run_id: str, tmp_path: Path) -> None:
    report = download(store, run_id, tmp_path / "out", "overlays/*")
    assert report.files == ("overlays/best ü.png", "overlays/worst.png")
    assert download(store, run_id, tmp_path / "out", "*.yaml").files == ("config.yaml",)
    store.client.log_text(run_id, "", "model/code/config.yaml")
    assert download(store, run_id, tmp_path / "out", "config.yaml").files == ("config.yaml",)
    for pattern in ("*.onnx", "../*", "..", "/etc/passwd"):
        with pytest.raises(UserError, match=f"no artifact .* matches '{re.escape(pattern)}'"):
            download(store, run_id, tmp_path / "out", pattern)


@pytest.mark.parametrize("name", ["a/../../x", "../x", "/etc/hostname", "..", "a\\..\\x", "\0"])
def test_no_name_ever_leads_out(
    name: str, store: Store, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server lists what it likes."""
    out = tmp_path / "a" / "b" / "out"
    before = set(tmp_path.rglob("*")) | {out, out.parent, out.parent.parent}
    monkeypatch.setattr(artifacts, "list_artifacts", lambda *_: [name])
    with pytest.raises(UserError, match="cannot be written to"):
        download(store, run_id, out)
    assert set(tmp_path.rglob("*")) == before


def test_a_link_in_the_folder_is_not_followed(store: Store, run_id: str, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "overlays").symlink_to(outside)
    with pytest.raises(UserError, match="outside"):
        download(store, run_id, out)
    assert not list(outside.iterdir())
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (out / "config.yaml").unlink(missing_ok=True)
    (out / "config.yaml").symlink_to(victim)
    with pytest.raises(UserError, match="outside"):
        download(store, run_id, out, "*.yaml")
    assert victim.read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_named(
    store: Store, run_id: str, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="out"):
        download(store, run_id, tmp_path / "out")
