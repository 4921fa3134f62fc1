"""Downloads from a local server that stands in for Kaggle and for the store it redirects to."""

from __future__ import annotations

import base64
import errno
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.data import transfer
from seglab.data.kaggle import DATASET, SLICE_FILES, DownloadReport, download
from tests.data.kaggle_stand import Stand, handler_for

SECRET = "s3cr3t-k3y"
FOLDER = "BraTS2020_training_data/content/data"


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def slices(count: int = 6) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {f"{FOLDER}/volume_1_slice_{s}.h5": rng.bytes(400_000) for s in range(count)}
    return files | {"meta_data.csv": b"slice_path,target\n" * 50}


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stand]:
    stand = Stand(content=make_zip(slices()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(stand))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    stand.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("KAGGLE_API_ENDPOINT", stand.url)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home" / ".kaggle"))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1 << 14)
    yield stand
    server.shutdown()
    server.server_close()
    thread.join()


def get(out: Path, expected_slices: int = 6) -> DownloadReport:
    return download(out, expected_slices=expected_slices, wait_s=0.0)


def leftovers(out: Path) -> list[str]:
    names = (path.name for path in out.rglob("*") if path.is_file())
    return [name for name in names if name.endswith((".part", ".zip", ".etag"))]


def test_files_arrive_byte_for_byte(stand: Stand, tmp_path: Path) -> None:
    report = get(tmp_path / "data")
    assert (report.files, report.slices, report.reused) == (7, 6, False)
    assert report.bytes == len(stand.content)
    for name, content in slices().items():
        assert (tmp_path / "data" / name).read_bytes() == content
    assert stand.requests[0]["path"] == f"/api/v1/datasets/download/{DATASET}"
    assert leftovers(tmp_path / "data") == []


def test_a_finished_download_is_not_repeated(stand: Stand, tmp_path: Path) -> None:
    get(tmp_path)
    asked = len(stand.requests)
    assert get(tmp_path).reused
    assert len(stand.requests) == asked
    (tmp_path / FOLDER / "volume_1_slice_3.h5").unlink()
    assert not get(tmp_path).reused
    assert len(stand.requests) == asked + 1


def test_a_broken_connection_is_taken_up_where_it_broke(stand: Stand, tmp_path: Path) -> None:
    stand.break_after, stand.breaks = 700_000, 2
    report = get(tmp_path)
    assert report.slices == 6
    ranges = [request.get("range") for request in stand.requests]
    assert ranges[0] is None
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in ranges[1:]]
    assert len(starts) == 2
    assert 600_000 < starts[0] <= 700_000
    assert 1_200_000 < starts[1] <= 1_400_000


def test_the_next_call_continues_after_giving_up(stand: Stand, tmp_path: Path) -> None:
    stand.break_after, stand.breaks, stand.status_after_break = 500_000, 1, 503
    with pytest.raises(UserError, match=r"keeps breaking off after [\d,]+ bytes \(HTTP 503\)"):
        get(tmp_path)
    assert any(name.endswith(".part") for name in leftovers(tmp_path))
    stand.status = 200
    assert get(tmp_path).slices == 6
    start = int(stand.requests[-1]["range"].removeprefix("bytes=").removesuffix("-"))
    assert 400_000 < start <= 500_000


def test_a_part_of_another_version_is_thrown_away(stand: Stand, tmp_path: Path) -> None:
    stand.break_after, stand.breaks = 500_000, 1
    other = np.random.default_rng(1).bytes(700_000)
    stand.change_to = make_zip({f"{FOLDER}/volume_2_slice_0.h5": other})
    report = get(tmp_path, expected_slices=1)
    assert report.bytes == len(stand.content)
    assert (tmp_path / FOLDER / "volume_2_slice_0.h5").read_bytes() == other


def test_without_etag_a_break_starts_over(stand: Stand, tmp_path: Path) -> None:
    stand.etag, stand.break_after, stand.breaks = None, 500_000, 1
    assert get(tmp_path).slices == 6
    assert all("range" not in request for request in stand.requests)


def test_a_part_that_is_already_whole_is_accepted(stand: Stand, tmp_path: Path) -> None:
    part = tmp_path / f".{DATASET.replace('/', '--')}.zip.part"
    part.write_bytes(stand.content)
    part.with_name(f"{part.name}.etag").write_text('"v1"')
    assert get(tmp_path).slices == 6
    assert [request.get("range") for request in stand.requests] == [f"bytes={len(stand.content)}-"]


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_says_what_to_do_and_keeps_the_secret(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    stand.status = status
    with pytest.raises(UserError) as error:
        get(tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for hint in (
        str(status),
        "kaggle.json",
        "KAGGLE_USERNAME",
        "/settings",
        DATASET,
        f"data check --source brats-h5 --root {tmp_path}",
    ):
        assert hint in message
    assert SECRET not in message
    assert len(stand.requests) == 1


def test_a_login_page_is_a_refusal(stand: Stand, tmp_path: Path) -> None:
    stand.content_type = "text/html; charset=utf-8"
    with pytest.raises(UserError, match="create a token"):
        get(tmp_path)
    assert leftovers(tmp_path) == []


def test_unknown_data_set_is_named(stand: Stand, tmp_path: Path) -> None:
    stand.status = 404
    with pytest.raises(UserError, match="no data set 'some/where'"):
        download(tmp_path, dataset="some/where", wait_s=0)
    with pytest.raises(UserError, match="owner/name"):
        download(tmp_path, dataset="brats2020", wait_s=0)


def test_without_network_it_offers_the_browser(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot download from http://127.0.0.1:9 .*browser"):
        get(tmp_path)
    monkeypatch.setenv("KAGGLE_API_ENDPOINT", stand.url)
    stand.status = 500
    with pytest.raises(UserError, match="HTTP 500"):
        get(tmp_path)


def test_credentials_reach_kaggle_but_not_the_store(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.redirect = True
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    assert get(tmp_path / "a").slices == 6
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    assert get(tmp_path / "b").slices == 6
    basic = base64.b64encode(f"someone:{SECRET}".encode()).decode()
    asked = [(request["path"][:5], request.get("authorization")) for request in stand.requests]
    assert asked == [
        ("/api/", f"Basic {basic}"),
        ("/stor", None),
        ("/api/", f"Bearer {SECRET}"),
        ("/stor", None),
    ]


def test_a_redirected_transfer_continues_too(stand: Stand, tmp_path: Path) -> None:
    stand.redirect, stand.break_after, stand.breaks = True, 500_000, 1
    assert get(tmp_path).slices == 6
    assert "range" in stand.requests[-1]


def test_credentials_are_read_from_kaggle_json(stand: Stand, tmp_path: Path) -> None:
    folder = tmp_path / "home" / ".kaggle"
    folder.mkdir(parents=True)
    (folder / "kaggle.json").write_text(f'{{"username": "me", "key": "{SECRET}"}}')
    get(tmp_path / "data")
    basic = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert stand.requests[0]["authorization"] == f"Basic {basic}"
    (folder / "kaggle.json").write_text(f'{{"username": "me", "kye": "{SECRET}"}}')
    with pytest.raises(UserError, match=r"kaggle\.json.*key.*create a new token") as error:
        get(tmp_path / "other")
    assert SECRET not in str(error.value)


def test_a_damaged_archive_is_removed_and_fetched_anew(stand: Stand, tmp_path: Path) -> None:
    whole = stand.content
    middle = len(whole) // 2
    stand.content = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    with pytest.raises(UserError, match=r"damaged .*removed"):
        get(tmp_path)
    assert leftovers(tmp_path) == []
    stand.content = b"this is no zip"
    with pytest.raises(UserError, match=r"damaged .*removed"):
        get(tmp_path)
    stand.content = whole
    assert get(tmp_path).slices == 6


def test_too_few_slices_are_counted(stand: Stand, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"6 of 57,195 slice files"):
        download(tmp_path, wait_s=0)
    assert SLICE_FILES[DATASET] == 369 * 155


def test_an_evil_archive_writes_nothing(stand: Stand, tmp_path: Path) -> None:
    stand.content = make_zip(slices() | {"../evil.h5": b"gotcha"})
    out = tmp_path / "deep" / "data"
    with pytest.raises(UserError, match=r"'\.\./evil\.h5' leads outside"):
        get(out)
    assert not list(tmp_path.rglob("evil*"))
    assert not list(out.rglob("*.h5"))


def test_a_folder_that_cannot_be_written_is_named(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        get(tmp_path / "file")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "_append", full)
    with pytest.raises(UserError, match=r"cannot write to .*: No space left"):
        get(tmp_path / "data")
