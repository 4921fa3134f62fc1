"""How fast each stage is on this machine, against the naive way."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from seglab.cli.data import SOURCE_HELP
from seglab.cli.shell import DONE, Parser, add_json, run_command
from seglab.core.documents import json_text
from seglab.core.errors import UserError
from seglab.core.machine import progress

EXAMPLE = """\
examples:
  python -m benchmarks
  python -m benchmarks --stages prepare batches --data brats2020 --source brats-h5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m benchmarks`` with these arguments; returns the exit status."""
    parser = Parser(
        prog="python -m benchmarks",
        description="Measure every stage on this machine, in turn with what most people write.\n"
        "Makes phantoms in a temporary folder; all stages take about twenty minutes on two cores,\n"
        "longer where a virtual machine's host disturbs: what it disturbed is repeated.",
        epilog=EXAMPLE,
    )
    parser.add_argument(
        "--stages", nargs="+", default=(), metavar="STAGE", help="or groups of them"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--data", type=Path, metavar="DIR", help="measure on these files")
    parser.add_argument("--source", help=f"what --data holds: {SOURCE_HELP}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to draw the time's picture")
    add_json(parser)
    return run_command(_bench, parser.parse_args(argv))


def _bench(arguments: argparse.Namespace) -> int:
    if (arguments.data is None) != (arguments.source is None):
        raise UserError("--data and --source go together: --data DIR --source brats-h5")
    if arguments.device == "cuda":
        _need_gpu()
    import benchmarks.stages  # noqa: F401  (registers)
    from benchmarks.machine import describe_machine
    from benchmarks.material import Material
    from benchmarks.picture import draw_time
    from benchmarks.report import describe, headline, summary
    from benchmarks.run import run_stages
    from benchmarks.stage import choose

    stages = choose(arguments.stages, arguments.device)
    rows, started = [], time.perf_counter()
    source = arguments.source or "brats-h5"
    with Material(arguments.device, arguments.data, source) as material:
        machine = describe_machine(material.compute)
        if not arguments.json:
            print(headline(machine, material.description))
        for row in progress(run_stages(stages, material), "bench", len(stages), "stage"):
            rows.append(row)
            if not arguments.json:
                print(describe(row))
    if not arguments.json:
        print(f"\n{summary(rows, time.perf_counter() - started)}")
    picture = None if arguments.out is None else draw_time(rows, arguments.out)
    if picture is not None:
        print(f"\nwhere the time goes: {picture}", file=sys.stderr)
    if arguments.json:
        print(json_text({"machine": machine, "stages": [row.to_json() for row in rows]}))
    return DONE


def _need_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device; cpu is measured without it")


if __name__ == "__main__":
    sys.exit(main())
