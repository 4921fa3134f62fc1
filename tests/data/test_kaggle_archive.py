from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from seglab.core.errors import UserError
from seglab.data import archive as archive_module
from seglab.data.archive import Damaged, Limits, unpack


def pack(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return path


def rename_in_place(path: Path, old: bytes, new: bytes) -> None:
    assert len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "leads outside"),
        ("a/../../evil", "leads outside"),
        ("/tmp/evil", "leads outside"),
        ("C:/evil", "leads outside"),
        ("a\\..\\evil", "leads outside"),
        ("a\\b", "malformed"),
    ],
)
def test_names_that_lead_away_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    placeholder = "Q" * len(name)
    path = pack(tmp_path / "x.zip", ("good", b"1"), (placeholder, b"2"))
    rename_in_place(path, placeholder.encode(), name.encode())
    with pytest.raises(UserError, match=reason):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = pack(tmp_path / "x.zip", (link, b"/etc"), ("link/passwd", b"x"))
    with pytest.raises(UserError, match="'link' is a link"):
        unpack(path, tmp_path / "out")


def test_a_link_already_in_the_target_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(outside)
    path = pack(tmp_path / "x.zip", ("a/b", b"x"))
    with pytest.raises(UserError, match="remove the link"):
        unpack(path, tmp_path / "out")
    assert not list(outside.iterdir())


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", ("a", b"1"), ("A", b"2"))
    with pytest.raises(UserError, match="twice"):
        unpack(path, tmp_path / "out")


def test_bombs_and_oversized_archives_are_refused(tmp_path: Path) -> None:
    bomb = pack(tmp_path / "bomb.zip", ("zeros", bytes(20_000_000)))
    with pytest.raises(UserError, match="100-fold"):
        unpack(bomb, tmp_path / "out")
    assert unpack(bomb, tmp_path / "out", Limits(ratio=2000)).bytes == 20_000_000
    many = pack(tmp_path / "many.zip", *((str(i), b"x") for i in range(5)))
    with pytest.raises(UserError, match="5 files"):
        unpack(many, tmp_path / "out", Limits(files=4))
    with pytest.raises(UserError, match="4 bytes"):
        unpack(many, tmp_path / "out", Limits(bytes=4))


def test_a_full_disk_is_noticed_before_the_first_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "SPARE_BYTES", 1 << 60)
    with pytest.raises(UserError, match="GB free"):
        unpack(pack(tmp_path / "x.zip", ("a", b"1")), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_second_call_repairs_what_differs_and_keeps_the_rest(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", ("d/a", b"aaaa"), ("d/b", b"bbbb"), ("d/c", b"cccc"))
    out = tmp_path / "out"
    unpack(path, out)
    kept = (out / "d" / "a").stat().st_mtime_ns
    (out / "d" / "b").write_bytes(b"bXbb")
    (out / "d" / "c").write_bytes(b"cc")
    assert unpack(path, out).files == 3
    assert (out / "d" / "a").stat().st_mtime_ns == kept
    assert (out / "d" / "b").read_bytes() == b"bbbb"
    assert (out / "d" / "c").read_bytes() == b"cccc"


def test_a_wrong_checksum_leaves_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as opened:
        opened.writestr("good", b"1111")
        opened.writestr("bad", b"2222")
    path.write_bytes(path.read_bytes().replace(b"2222", b"2223"))
    with pytest.raises(Damaged, match="bad"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good"]
