"""``predict``: masks, pictures and volumes for new scans."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seglab.cli.shell import DONE, USER_ERROR, Parser, add_json, print_json
from seglab.core.errors import UserError

if TYPE_CHECKING:
    from seglab.studies.prediction import Predicted

SHOWN = 4
"""Files that are named as seen; the JSON names all."""
NOT_A_DEVICE = "Not a medical device: for research, and never for a diagnosis."


def add_commands(commands: Any) -> None:
    """Add ``predict``."""
    parser: Parser = commands.add_parser(
        "predict",
        help="masks for new scans",
        description="Write a mask, a picture and the volume of every patient: .nii[.gz], .h5 or "
        f".tif files, or folders of them,\ngrouped by their names. {NOT_A_DEVICE}",
        epilog="examples:\n  python -m seglab predict losses@champion scan_flair.nii.gz --out masks"
        "\n  python -m seglab predict RUN_ID folder --out masks\n"
        "  python -m seglab predict results/checkpoints/weights.safetensors folder --out masks",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="name@alias, run id or files")
    parser.add_argument("inputs", metavar="INPUT", nargs="*", type=Path, help="files and folders")
    parser.add_argument("--model", dest="named", metavar="MODEL", help="instead of the first one")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    add_json(parser)
    parser.set_defaults(do=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    from seglab.studies.prediction import predict
    from seglab.studies.resolve import open_model
    from seglab.tracking import open_store

    model, inputs = arguments.model, list(arguments.inputs)
    if arguments.named is not None:
        inputs = [Path(model), *inputs] if model is not None else inputs
        model = arguments.named
    if model is None or not inputs:
        raise UserError("give a model and at least one scan: predict MODEL INPUT… --out DIR")
    predictions = predict(open_model(model, open_store), inputs, arguments.out)
    if arguments.json:
        print_json(predictions.to_json())
    else:
        print("\n".join(_describe(one) for one in predictions.outputs))
    for path, reason in predictions.failed:
        print(f"error: {path}: {reason.removeprefix(f'{path} ')}", file=sys.stderr)
    return USER_ERROR if predictions.failed else DONE


def _describe(one: Predicted) -> str:
    ml = "volume unknown" if one.volume_ml is None else f"{one.volume_ml:.1f} ml"
    warnings = "".join(f"\n  warning: {text}" for text in one.warnings)
    seen = ", ".join(path.name for path in one.seen[:SHOWN])
    seen += f" and {len(one.seen) - SHOWN} more" if len(one.seen) > SHOWN else ""
    return f"{one.mask}: {ml}{warnings}" + (f"\n  seen, not predicted: {seen}" if seen else "")
