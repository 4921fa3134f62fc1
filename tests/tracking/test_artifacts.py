"""Downloads: complete, resumable, and never outside the folder."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seglab.cli.main import main
from seglab.core.errors import UserError
from seglab.tracking.artifacts import RECORD, download, safe_target
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
        if path.is_file() and path != out / RECORD
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


def test_a_pattern_takes_a_part(store: Store, tmp_path: Path) -> None:
    run_id = _logged(store, tmp_path)
    report = download(store, run_id, tmp_path / "out", "overlays/*")
    assert report.files == ("overlays/best ü.png", "overlays/worst.png")
    assert download(store, run_id, tmp_path / "out", "*.yaml").files == ("config.yaml",)
    with pytest.raises(UserError, match=r"no artifact .* matches '\*\.onnx'"):
        download(store, run_id, tmp_path / "out", "*.onnx")


def test_a_folder_is_of_one_run(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    first, second = (_logged(store, tmp_path / name) for name in "ab")
    out = tmp_path / "out"
    download(store, first, out, "*.yaml")
    before = _hashes(out)
    with pytest.raises(UserError, match=f"{out} holds files of run {first}.*another folder"):
        download(store, second, out)
    assert main(["artifacts", second, "--out", str(out)]) == 2
    assert first in capsys.readouterr().err
    assert _hashes(out) == before
    assert download(store, first, out).files == tuple(sorted(CONTENT))


def test_the_command_downloads_from_a_server(
    remote: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = _logged(remote, tmp_path)
    out = tmp_path / "out"
    capsys.readouterr()
    assert main(["artifacts", run_id, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "run_id": run_id,
        "files": sorted(CONTENT),
        "bytes": sum(map(len, CONTENT.values())),
    }
    assert _hashes(out) == HASHES
    assert main(["artifacts", run_id, "--out", str(out), "--pattern", "*.yaml"]) == 0
    assert "1 files, 0.0 MB" in capsys.readouterr().out
    for pattern in ("../*", "..", "/etc/passwd"):
        assert main(["artifacts", run_id, "--out", str(out), "--pattern", pattern]) == 2
    assert main(["artifacts", "f" * 32, "--out", str(out)]) == 2


@example(".")
@example("C:\\x")
@example("a/../../x")
@example("/etc/passwd")
@given(name=st.text(alphabet=st.sampled_from("a./\\:~ \0"), max_size=12))
def test_no_name_ever_leads_out(name: str) -> None:
    out = Path("/tmp/out")
    try:
        target = safe_target(out, name)
    except UserError:
        return
    inside = Path(os.path.normpath(target))
    assert inside != out
    assert inside.is_relative_to(out)


def test_a_link_in_the_folder_is_not_followed(store: Store, tmp_path: Path) -> None:
    run_id = _logged(store, tmp_path)
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "overlays").symlink_to(outside)
    with pytest.raises(UserError, match="outside"):
        download(store, run_id, out)
    assert not list(outside.iterdir())
    (out / "overlays").unlink()
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (out / "config.yaml").symlink_to(victim)
    download(store, run_id, out)
    assert victim.read_text() == "mine"
    assert (out / "config.yaml").read_bytes() == CONTENT["config.yaml"]


def test_a_folder_that_cannot_be_written_is_named(store: Store, tmp_path: Path) -> None:
    run_id = _logged(store, tmp_path)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="out"):
        download(store, run_id, tmp_path / "out")
