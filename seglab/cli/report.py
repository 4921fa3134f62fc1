"""``report``: one page of a whole study."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seglab.cli.shell import DONE, Parser, add_json, print_json


def add_commands(commands: Any) -> None:
    """Add ``report``."""
    parser: Parser = commands.add_parser(
        "report",
        help="one page of a whole study, ready to hand in",
        description="Write one Markdown and HTML page of an experiment: data, split, arms, "
        "search, promoted model,\ntest, failures, cost and environment, from what its runs "
        "logged. Nothing is trained; the data need not be there.",
        epilog="examples:\n  python -m seglab report losses\n"
        "  python -m seglab report losses --out handed-in --json",
    )
    parser.add_argument("experiment", help="name of the experiment")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: beside the runs")
    add_json(parser)
    parser.set_defaults(do=_report)


def _report(arguments: argparse.Namespace) -> int:
    from seglab.studies.report.study import report_study
    from seglab.tracking import open_store

    written = report_study(open_store(), arguments.experiment, arguments.out)
    if arguments.json:
        print_json(
            {
                "experiment": written.experiment,
                "report": written.html,
                "markdown": written.markdown,
                "sections": written.sections,
            }
        )
    else:
        print(f"report: {written.html}")
    return DONE
