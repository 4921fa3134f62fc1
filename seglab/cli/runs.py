"""``ui`` and ``artifacts``: what was logged."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seglab.cli.shell import DONE, Parser, add_json, print_json


def add_commands(commands: Any) -> None:
    """Add the commands of this room."""
    _add_ui(commands)
    _add_artifacts(commands)


def _add_ui(commands: Any) -> None:
    parser: Parser = commands.add_parser(
        "ui",
        help="open the MLflow UI on the runs",
        description="Serve the MLflow UI on the store in use, for this machine only.",
        epilog="example:\n  python -m seglab ui --port 5001",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1: nobody else")
    parser.add_argument("--port", type=int, default=5000)
    parser.set_defaults(do=_ui)


def _ui(arguments: argparse.Namespace) -> int:
    from seglab.tracking import open_store, serve_ui

    return serve_ui(open_store(), arguments.host, arguments.port)


def _add_artifacts(commands: Any) -> None:
    parser: Parser = commands.add_parser(
        "artifacts",
        help="download what a run logged",
        description="Download a run's artifacts; an interrupted download continues.",
        epilog="example:\n  python -m seglab artifacts RUN_ID --out results",
    )
    parser.add_argument("run", help="run id, or how it begins")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--pattern", help="only these, e.g. 'overlays/*.png'")
    add_json(parser)
    parser.set_defaults(do=_artifacts)


def _artifacts(arguments: argparse.Namespace) -> int:
    from seglab.tracking import download, open_store

    report = download(open_store(), arguments.run, arguments.out, arguments.pattern)
    if arguments.json:
        print_json(vars(report))
    else:
        print(f"{arguments.out}: {len(report.files)} files, {report.bytes / 1e6:.1f} MB")
    return DONE
