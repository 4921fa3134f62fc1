"""``reproduce``: train a run again from what the store holds, and compare."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from seglab.cli.shell import DONE, Parser, add_json, print_json


def add_commands(commands: Any) -> None:
    """Add ``reproduce``."""
    parser: Parser = commands.add_parser(
        "reproduce",
        help="train a run again and compare",
        description="Train a finished run again from what MLflow holds of it, and say whether the "
        "result is equal to the bit,\nor by how much it is not.",
        epilog="examples:\n  python -m seglab reproduce RUN_ID\n"
        "  python -m seglab reproduce losses@champion\n"
        "  python -m seglab reproduce results/checkpoints/weights.safetensors",
    )
    parser.add_argument("run", metavar="RUN", help="run id, its checkpoint or registered model")
    parser.add_argument("overrides", nargs="*", metavar="data.root=DIR",
                        help="paths as they are on this machine")  # fmt: skip
    add_json(parser)
    parser.set_defaults(do=_reproduce)


def _reproduce(arguments: argparse.Namespace) -> int:
    from seglab.studies.reproduce import reproduce
    from seglab.tracking import open_store

    found = reproduce(open_store(), arguments.run, arguments.overrides, _warn)
    if arguments.json:
        print_json(found.to_json())
        return DONE
    if found.equal:
        print(f"run {found.new_run_id} is equal to {found.run_id} to the bit")
    else:
        print(f"run {found.new_run_id} differs from {found.run_id}:")
        print("\n".join(f"  {text}" for text in found.differences))
    return DONE


def _warn(environment: Sequence[str]) -> None:
    if environment:
        print("warning: this is not as it was, so the result may differ:", file=sys.stderr)
    for text in environment:
        print(f"environment: {text}", file=sys.stderr)
