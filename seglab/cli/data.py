"""``data download | phantom | check | prepare``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from seglab.cli.shell import DONE, USER_ERROR, answer


def source_name(text: str) -> str:
    """Type of ``--source``."""
    from seglab.core.registry import SOURCES

    if text not in SOURCES:
        allowed = ", ".join(sorted(source.name for source in SOURCES))
        raise argparse.ArgumentTypeError(f"unknown data source '{text}'; allowed: {allowed}")
    return text


def _options(given: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(given).items() if name != "json"}


def phantom(given: argparse.Namespace) -> int:
    """Write synthetic patients."""
    from seglab.data.phantom.write import write_phantom

    report = write_phantom(**_options(given))
    done = "found" if report["reused"] else f"written in {report['seconds']:.0f} s"
    counts = "{patients} phantom patients, {slices} slices ({tumour_slices} with tumour)"
    told = f"{counts.format_map(report)}, {report['bytes'] / 1e6:.0f} MB, {done}"
    return answer(given, report, f"{report['out']}: {told}")


def download(given: argparse.Namespace) -> int:
    """Fetch the Kaggle set."""
    from seglab.data.download import download

    report = download(given.out)
    done = "found" if report["reused"] else f"downloaded in {report['seconds']:.0f} s"
    return answer(given, report, f"{report['root']}: {report['slices']:,} slices, {done}")


def check(given: argparse.Namespace) -> int:
    """Look at every file and say what is wrong."""
    from seglab.data.check import check
    from seglab.data.sources.base import open_source

    source = open_source(given.source, given.root, labels=given.labels, persons=given.persons)
    others = [open_source(name, Path(root)) for name, root in given.other or ()]
    report = check(source, given.modalities, others=others, workers=given.workers)
    if given.out is not None:
        from seglab.figures.sheets import identity_sheet

        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "check.txt").write_text(f"{report.to_text()}\n", encoding="utf-8")
        found = json.dumps(report.found, indent=2)
        (given.out / "check.json").write_text(f"{found}\n", encoding="utf-8")
        if report.example is not None:
            identity_sheet(source, report).savefig(given.out / "identity.png")
    answer(given, report.found, report.to_text())
    for bad in report.found["bad_files"]:
        print(f"error: {bad['file']}: {bad['reason']}", file=sys.stderr)
    if not report.identity.ok:
        print(f"error: {report.identity.reason}", file=sys.stderr)
    return DONE if report.ok else USER_ERROR


def prepare(given: argparse.Namespace) -> int:
    """Fill the cache."""
    from seglab.core.blocks import validate
    from seglab.core.config import Data
    from seglab.data.open import fill_cache, judge_channel
    from seglab.data.sources.base import open_data_source

    data = validate(Data, _options(given), "data.")
    start = time.perf_counter()
    cache, reused = fill_cache(data, open_data_source(data))
    seconds = time.perf_counter() - start
    judge_channel(cache)
    done = "found" if reused else f"filled in {seconds:.1f} s"
    per_slice = cache.bytes / max(cache.slices, 1) / 1000
    text = f"{cache.path}: {cache.slices} slices, {per_slice:.1f} KB each, {done}"
    size = {"cache": cache.path, "slices": cache.slices, "bytes": cache.bytes}
    work = {"seconds": seconds, "reused": reused, "skipped": cache.skipped}
    return answer(given, size | work, text)
