"""``promote``: freeze on validation, open the sealed test once, register the champion."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from seglab.cli.shell import DONE, Parser, add_json, print_json, table

if TYPE_CHECKING:
    from seglab.studies.candidates import Candidates
    from seglab.studies.promotion import Promotion

SHOWN = 10


def add_commands(commands: Any) -> None:
    """Add ``promote``."""
    parser: Parser = commands.add_parser(
        "promote",
        help="open the sealed test once, for the best run, and register it",
        description="Take the best finished run by validation Dice, freeze its operating point "
        "on validation, open the\nsealed test once, evaluate, and register the model as champion.",
        epilog="examples:\n  python -m seglab promote losses\n"
        '  python -m seglab promote RUN_ID --reopen "the scanner table was wrong"',
    )
    parser.add_argument("name", metavar="EXPERIMENT|SWEEP|RUN")
    parser.add_argument("--reopen", metavar="REASON", help="open a test that was opened before")
    parser.add_argument("--baseline", metavar="RUN", help="compare with it under the same seal")
    parser.add_argument("overrides", nargs="*", metavar="data.root=DIR", help="paths as they are "
                        "on this machine, and train.device, train.threads")  # fmt: skip
    add_json(parser)
    parser.set_defaults(do=_promote)


def _promote(arguments: argparse.Namespace) -> int:
    from seglab.studies.promotion import promote
    from seglab.tracking import open_store

    promotion = promote(
        open_store(),
        arguments.name,
        reopen=arguments.reopen,
        baseline=arguments.baseline,
        overrides=arguments.overrides,
        tell=_show_candidates,
    )
    print_json(promotion.to_json()) if arguments.json else print(_describe(promotion))
    return DONE


def _show_candidates(candidates: Candidates) -> None:
    print(leaderboard(candidates), file=sys.stderr)
    print(f"promoting: {candidates.reason}", file=sys.stderr)


def leaderboard(candidates: Candidates) -> str:
    """List the best finished runs, best first."""
    out_of_fold = candidates.out_of_fold
    header = ("candidate", "run", "val Dice", *(["out of fold"] if out_of_fold else []))
    rows = [
        (
            run.name,
            run.run_id[:8],
            f"{run.metrics['val/dice']:.4f}",
            *([f"{out_of_fold.get(run.run_id, math.nan):.4f}"] if out_of_fold else []),
        )
        for run in candidates.ranked[:SHOWN]
    ]
    more = len(candidates.ranked) - len(rows)
    return table(header, rows) + (f"\nand {more} more" if more else "")


def _describe(promotion: Promotion) -> str:
    from seglab.studies.promotion_outputs import sealed_document
    from seglab.studies.report.markdown import render_markdown

    page = render_markdown(sealed_document(promotion.results, promotion.opened))
    point = promotion.point
    setting = (
        f"threshold {point.threshold:g}, components from {point.smallest_component_px} px, "
        f"holes {'filled' if point.fill_holes else 'kept'}, "
        f"{'with' if point.mirror else 'without'} mirroring"
    )
    return (
        f"{page}\nfrozen on validation: {setting}\n"
        f"registered: {promotion.model_uri} (version {promotion.registered.version})\n"
        f"ONNX: {promotion.onnx}\n"
        f"promotion run {promotion.run_id}; look: make ui"
    )
