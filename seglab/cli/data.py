"""``data download | phantom | check | prepare``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.cli.shell import DONE, USER_ERROR, Parser, add_json, print_json

if TYPE_CHECKING:
    from seglab.data.check import CheckReport
    from seglab.data.sources import Source

SOURCE_HELP = "brats-h5, brats-nifti, lgg-tif or another of: python -m seglab list sources"


def add_commands(commands: Any) -> None:
    """Add ``data`` and its sub-commands."""
    parser = commands.add_parser("data", help="download, make, check and prepare data")
    parts = parser.add_subparsers(dest="part", required=True, metavar="COMMAND")
    _add_phantom(parts)
    _add_download(parts)
    _add_check(parts)
    _add_prepare(parts)


def _add_phantom(parts: Any) -> None:
    parser: Parser = parts.add_parser(
        "phantom",
        help="write synthetic patients",
        description="Write synthetic patients in the exact layout of the Kaggle or BraTS files.",
        epilog="example:\n  python -m seglab data phantom --out phantoms --patients 12",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--patients", type=int, default=12, help="how many (default 12)")
    parser.add_argument("--size", type=int, default=240, help="side of a slice (default 240)")
    parser.add_argument("--slices", type=int, default=155, help="slices a patient (default 155)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default 0)")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")
    parser.add_argument(
        "--layout", choices=("h5", "nifti"), default="h5", help="files of Kaggle (default) or BraTS"
    )
    add_json(parser)
    parser.set_defaults(do=_phantom)


def _phantom(arguments: argparse.Namespace) -> int:
    from seglab.data.phantom import write_phantom

    report = write_phantom(
        arguments.out,
        patients=arguments.patients,
        size=arguments.size,
        slices=arguments.slices,
        seed=arguments.seed,
        workers=arguments.workers,
        layout=arguments.layout,
    )
    if arguments.json:
        print_json(vars(report))
        return DONE
    found = "found" if report.reused else f"written in {report.seconds:.0f} s"
    print(
        f"{report.out}: {report.patients} phantom patients, {report.slices} slices "
        f"({report.tumour_slices} with tumour), {report.bytes / 1e6:.0f} MB, {found}"
    )
    return DONE


def _add_download(parts: Any) -> None:
    parser: Parser = parts.add_parser(
        "download",
        help="fetch the Kaggle set",
        description="Fetch the BraTS 2020 slices from Kaggle; an interrupted download continues.",
        epilog="example:\n  python -m seglab data download --out brats2020",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    add_json(parser)
    parser.set_defaults(do=_download)


def _download(arguments: argparse.Namespace) -> int:
    from seglab.data.download import download

    report = download(arguments.out)
    print_json(vars(report)) if arguments.json else print(f"{arguments.out}: {report}")
    return DONE


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True, help=SOURCE_HELP)
    parser.add_argument("--root", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--modalities",
        nargs="+",
        metavar="NAME",
        default=["flair"],
        help="of flair, t1, t1ce, t2: those that every patient must have (default flair)",
    )
    parser.add_argument("--labels", default="auto", help="as data.labels (default auto)")
    parser.add_argument("--persons", type=Path, metavar="CSV", help="as data.persons")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")


def _add_check(parts: Any) -> None:
    parser: Parser = parts.add_parser(
        "check",
        help="look at every file and say what is wrong",
        description="Read every file; report what is missing, broken, double, or misnamed.",
        epilog="example:\n  python -m seglab data check --source brats-h5 --root brats2020",
    )
    _add_source(parser)
    parser.add_argument(
        "--other",
        nargs=2,
        action="append",
        metavar=("SOURCE", "DIR"),
        help="another set, to find patients that are in both (may be repeated)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write page and picture")
    add_json(parser)
    parser.set_defaults(do=_check)


def _check(arguments: argparse.Namespace) -> int:
    from seglab.data.check import check
    from seglab.data.sources import open_source

    source = open_source(
        arguments.source, arguments.root, labels=arguments.labels, persons=arguments.persons
    )
    others = [open_source(name, Path(root)) for name, root in arguments.other or ()]
    report = check(source, arguments.modalities, others=others, workers=arguments.workers)
    if arguments.out is not None:
        _write_check(report, source, arguments.out)
    print_json(report.found) if arguments.json else print(report.to_text())
    for bad in report.found["bad_files"]:
        print(f"error: {bad['file']}: {bad['reason']}", file=sys.stderr)
    if not report.identity.ok:
        print(f"error: {report.identity.reason}", file=sys.stderr)
    return DONE if report.ok else USER_ERROR


def _write_check(report: CheckReport, source: Source, out: Path) -> None:
    from seglab.figures.identity_sheet import identity_sheet
    from seglab.figures.pixels import write_png

    out.mkdir(parents=True, exist_ok=True)
    (out / "check.txt").write_text(report.to_text() + "\n", encoding="utf-8")
    (out / "check.json").write_text(json.dumps(report.found, indent=2) + "\n", encoding="utf-8")
    if report.example is not None:
        write_png(out / "identity.png", identity_sheet(source, report))


def _add_prepare(parts: Any) -> None:
    parser: Parser = parts.add_parser(
        "prepare",
        help="fill the cache",
        description="Read every file once into a packed cache; training does it too if needed.",
        epilog="example:\n  python -m seglab data prepare --source brats-h5 --root brats2020",
    )
    _add_source(parser)
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="DIR")
    parser.add_argument("--size", type=int, default=128, help="data.image_size (default 128)")
    parser.add_argument("--crop", choices=("brain", "none"), default="brain")
    parser.add_argument("--on-bad-file", choices=("fail", "skip"), default="fail")
    add_json(parser)
    parser.set_defaults(do=_prepare)


def _prepare(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from seglab.core.blocks import explain
    from seglab.core.config import Data
    from seglab.data.open import fill_cache, judge_channel

    try:
        data = Data(
            source=arguments.source,
            root=arguments.root,
            modalities=arguments.modalities,
            labels=arguments.labels,
            persons=arguments.persons,
            image_size=arguments.size,
            crop=arguments.crop,
            cache=arguments.cache,
            workers=arguments.workers,
            on_bad_file=arguments.on_bad_file,
        )
    except ValidationError as error:
        raise explain(error, Data, "data.") from None
    cache, prepared = fill_cache(data)
    judge_channel(cache)
    if arguments.json:
        print_json({"cache": cache.path, **vars(prepared)})
        return DONE
    done = "found" if prepared.reused else f"filled in {prepared.seconds:.1f} s"
    per_slice = prepared.bytes / max(prepared.slices, 1) / 1000
    print(f"{cache.path}: {prepared.slices} slices, {per_slice:.1f} KB each, {done}")
    return DONE
