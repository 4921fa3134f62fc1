"""``compare``: which arms of an ablation differ."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seglab.cli.shell import DONE, Parser, add_json, print_json


def add_commands(commands: Any) -> None:
    """Add ``compare``."""
    parser: Parser = commands.add_parser(
        "compare",
        help="which arms of an ablation differ",
        description="Compare the arms of an ablation, paired over patients, and write the report.",
        epilog="examples:\n  python -m seglab compare losses\n"
        "  python -m seglab compare losses --baseline dice --json",
    )
    parser.add_argument("experiment", help="name of the experiment, or id of its parent run")
    parser.add_argument("--baseline", metavar="ARM", help="default: the experiment's own")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: beside the runs")
    add_json(parser)
    parser.set_defaults(do=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from seglab.studies.report import report_ablation
    from seglab.studies.results import find_ablation
    from seglab.tracking import open_store

    store = open_store()
    parent = find_ablation(store, arguments.experiment)
    written = report_ablation(store, parent, baseline=arguments.baseline, out=arguments.out)
    if arguments.json:
        print_json({**written.result.to_json(), "report": written.folder / "report.html"})
    else:
        print(written.text)
        print(f"\nreport: {written.folder / 'report.html'}")
    return DONE
