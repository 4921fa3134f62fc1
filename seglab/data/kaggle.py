"""Gets a data set from Kaggle: continued after a break, verified, unpacked safely.

kagglehub supplies the credentials, wherever it finds them (``KAGGLE_API_TOKEN``,
``KAGGLE_USERNAME`` and ``KAGGLE_KEY``, ``~/.kaggle``). The transfer goes to Kaggle's
public API directly: kagglehub 1.0 cannot continue within a call, leaves the size of what
arrives unchecked, and unpacks whatever the archive asks for.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from seglab.core.errors import UserError
from seglab.data.archive import Damaged, Limits, Unpacked, unpack
from seglab.data.transfer import Refused, Remote, Unreachable, fetch

DATASET = "awsaf49/brats2020-training-data"
SLICE_FILES = {DATASET: 57_195}
"""h5 files of the data sets whose content is known."""

ENDPOINT = "https://www.kaggle.com"
ENDPOINT_VARIABLE = "KAGGLE_API_ENDPOINT"
RECORD = ".download.json"


@dataclass(frozen=True)
class DownloadReport:
    """What was downloaded and where it lies."""

    dataset: str
    root: str
    """Folder to give as ``data.root``."""
    files: int
    slices: int
    """h5 files among them."""
    bytes: int
    seconds: float
    reused: bool
    """Everything was there already; nothing was transferred."""


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def download(
    out: Path,
    *,
    dataset: str = DATASET,
    expected_slices: int | None = None,
    limits: Limits | None = None,
    wait_s: float = 1.0,
) -> DownloadReport:
    """Download ``dataset`` into ``out``; the same call again continues or finds it done.

    Without credentials it asks anonymously, which Kaggle allows for some public data sets.

    Args:
        out: folder to fill; while the call runs it also holds the archive.
        dataset: ``owner/name`` on Kaggle.
        expected_slices: h5 files that must be there; None takes what is known of ``dataset``.
        limits: on what the archive may hold.
        wait_s: first wait after a broken connection.

    Raises:
        UserError: no access, no network, no such data set, a damaged or unsafe archive,
            too few slices, a folder that cannot be written. The message says what to do.
    """
    if dataset.count("/") != 1 or not all(dataset.split("/")):
        raise UserError(f"data set '{dataset}' must be named owner/name, e.g. {DATASET}")
    done = _finished(out, dataset)
    if done is not None:
        return done
    started = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
        archive = out / f".{dataset.replace('/', '--')}.zip"
        size = archive.stat().st_size if archive.exists() else _transfer(dataset, archive, wait_s)
        unpacked = _unpack(archive, out, limits)
        slices = _count_slices(out)
        wanted = SLICE_FILES.get(dataset) if expected_slices is None else expected_slices
        _refuse_incomplete(archive, slices, wanted)
        took = round(time.monotonic() - started, 1)
        report = DownloadReport(dataset, str(out), unpacked.files, slices, size, took, reused=False)
        (out / RECORD).write_text(json.dumps(asdict(report), indent=1), encoding="utf-8")
        archive.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from error
    return report


def _finished(out: Path, dataset: str) -> DownloadReport | None:
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        report = DownloadReport(**record | {"root": str(out), "reused": True, "seconds": 0.0})
    except (OSError, ValueError, TypeError):
        return None
    complete = report.dataset == dataset and report.slices == _count_slices(out)
    return report if complete else None


def _count_slices(out: Path) -> int:
    return sum(1 for _ in out.rglob("*.h5"))


def _transfer(dataset: str, archive: Path, wait_s: float) -> int:
    endpoint = os.environ.get(ENDPOINT_VARIABLE, ENDPOINT).rstrip("/")
    remote = Remote(f"{endpoint}/api/v1/datasets/download/{dataset}", _credentials())
    try:
        return fetch(remote, archive, wait_s=wait_s)
    except Refused as refusal:
        raise _explain(refusal.status, dataset, archive.parent) from None
    except Unreachable as nothing:
        raise UserError(
            f"cannot download from {endpoint} ({nothing}): check the network and proxy "
            f"(HTTPS_PROXY), {_by_hand(dataset, archive.parent)}"
        ) from None
    except requests.RequestException as error:
        raise UserError(f"cannot download from {endpoint}: {type(error).__name__}") from None


def _credentials() -> AuthBase | None:
    from kagglehub.config import get_kaggle_credentials

    try:
        found = get_kaggle_credentials()
    except ValueError as error:  # names the file and the missing key, never a value
        raise UserError(f"{error}: create a new token on {ENDPOINT}/settings") from None
    if found is None:
        return None
    if found.api_key:
        return _Bearer(found.api_key)
    return HTTPBasicAuth(found.username, found.key)


def _explain(status: int, dataset: str, out: Path) -> UserError:
    page = f"{ENDPOINT}/datasets/{dataset}"
    if status == 404:
        return UserError(f"Kaggle has no data set '{dataset}' (HTTP 404): see {page}")
    return UserError(
        f"Kaggle does not give '{dataset}' to this request (HTTP {status}): log in or register "
        f"on {ENDPOINT}, open {page} and accept its terms if asked, create a token on "
        f"{ENDPOINT}/settings, save it as ~/.kaggle/kaggle.json or set KAGGLE_USERNAME and "
        f"KAGGLE_KEY, and run this again; {_by_hand(dataset, out)}"
    )


def _by_hand(dataset: str, out: Path) -> str:
    return (
        f"or download the zip in a browser from {ENDPOINT}/datasets/{dataset}, unpack it into "
        f"{out} and run 'python -m seglab data check --source brats-h5 --root {out}'"
    )


def _unpack(archive: Path, out: Path, limits: Limits | None) -> Unpacked:
    try:
        return unpack(archive, out, limits)
    except Damaged as damage:
        archive.unlink()
        raise UserError(
            f"the archive from Kaggle was damaged ({damage}) and has been removed: "
            "run the same command again to download it anew"
        ) from None


def _refuse_incomplete(archive: Path, slices: int, wanted: int | None) -> None:
    if wanted is not None and slices < wanted:
        raise UserError(
            f"{archive.parent} holds {slices:,} of {wanted:,} slice files after unpacking "
            f"{archive.name}: remove that file and run the same command again"
        )
