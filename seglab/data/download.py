"""Fetches the Kaggle set with kagglehub, which resumes, checks the MD5 and unpacks."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import requests

from seglab.core.errors import UserError
from seglab.core.machine import tell

DATASET, SLICE_FILES, ATTEMPTS = "awsaf49/brats2020-training-data", 57_195, 12
SITE = "https://www.kaggle.com"
TOKEN = f"{SITE}/settings, API, 'Create New Token' gives kaggle.json, which belongs in ~/.kaggle"
ACCESS = f"accept the terms on {SITE}/datasets/{DATASET}, save a token ({TOKEN}) or set "
ACCESS += "KAGGLE_USERNAME and KAGGLE_KEY, and run this again"
NETWORK = "check network and proxy (HTTPS_PROXY) and run this again, which resumes; Kaggle "
NETWORK += f"also wants a token ({TOKEN}); or download the zip in a browser from "
NETWORK += f"{SITE}/datasets/{DATASET} and unpack it"


def download(out: Path, *, wait_s: float = 1.0) -> dict[str, Any]:
    """Download BraTS 2020 into ``out``; the same call again resumes, or finds it done.

    Returns what there is now; ``root`` is what to give as ``data.root``, ``slices`` are h5 files.
    Raises UserError that says what to do: no access or network, a damaged archive, a full disk.
    """
    started, cache, root = time.monotonic(), out / ".kagglehub", out
    try:
        reused = not cache.exists() and sum(1 for _ in out.rglob("*.h5")) >= SLICE_FILES
        if not reused:
            cache.mkdir(parents=True, exist_ok=True)  # resumed only there, not in an output_dir
            with contextlib.redirect_stdout(sys.stderr):  # kagglehub prints
                root = _fetch(cache, wait_s)
            if cache in root.parents:  # else a Kaggle notebook has the set mounted
                root = shutil.copytree(root, out, dirs_exist_ok=True, copy_function=os.replace)
            shutil.rmtree(cache)
        sizes = {path: path.stat().st_size for path in root.rglob("*") if path.is_file()}
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror or error}") from error
    slices = sum(path.suffix == ".h5" for path in sizes)
    if slices < SLICE_FILES:
        raise UserError(f"{root} holds {slices:,} of {SLICE_FILES:,} slice files: run this again")
    return {
        "dataset": DATASET,
        "root": str(root),
        "files": len(sizes),
        "slices": slices,
        "bytes": sum(sizes.values()),
        "seconds": round(time.monotonic() - started, 1),
        "reused": reused,
    }


def _fetch(cache: Path, wait_s: float) -> Path:
    os.environ["KAGGLEHUB_CACHE"] = str(cache)
    import kagglehub
    from kagglehub.exceptions import DataCorruptionError

    reason = ""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Path(kagglehub.dataset_download(DATASET))
        except requests.RequestException as error:
            status = 0 if error.response is None else error.response.status_code
            if 400 <= status < 500 and status != 429:
                raise UserError(f"Kaggle refuses {DATASET} (HTTP {status}): {ACCESS}") from None
            reason = f"HTTP {status}" if status else type(error).__name__
            tell(f"no download from Kaggle yet ({reason}): attempt {attempt} of {ATTEMPTS}")
            time.sleep(wait_s * attempt)
        except (DataCorruptionError, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            if "credentials" in str(error):  # names the file and the missing key, never a value
                raise UserError(f"{error}: {ACCESS}") from None
            for archive in cache.rglob("*.archive"):
                archive.unlink()
            raise UserError("the archive was damaged and is removed: run this again") from error
    raise UserError(f"cannot download from Kaggle ({reason}): {NETWORK}")
