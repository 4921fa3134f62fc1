"""``python -m seglab``: every command but the two that train."""

from __future__ import annotations

from collections.abc import Sequence

from seglab.cli import (
    compare,
    data,
    demo,
    names,
    predict,
    promote,
    report,
    reproduce,
    runs,
)
from seglab.cli.shell import Parser, run_command

EXAMPLE = """\
examples:
  python -m seglab data phantom --out phantoms
  python -m seglab list losses
  python -m seglab compare losses
  python -m seglab promote losses
  python -m seglab report losses
  python -m seglab ui
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m seglab`` with these arguments; returns the exit status."""
    parser = Parser(
        prog="python -m seglab",
        description="Find out which choices really make better brain-tumour masks.\n"
        "Training is run_experiment.py, searching is sweep.py.",
        epilog=EXAMPLE,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for room in (data, names, runs, compare, promote, predict, reproduce, report, demo):
        room.add_commands(commands)
    arguments = parser.parse_args(argv)
    return run_command(arguments.do, arguments)
