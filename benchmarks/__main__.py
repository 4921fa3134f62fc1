"""How fast each stage is on this machine, against the naive way."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.stage import STAGES, Bench, Measurement, Stage, Unavailable
from seglab.cli.shell import DONE, Parser, add_json, run_command
from seglab.core.documents import json_text
from seglab.core.errors import UserError, unknown_name

COLUMNS = "{:<20}{:>12}{:>12}  {:<11}{:>8}{:>15}  {}"


@dataclass(frozen=True)
class Row:
    """A stage and its result; ``skipped`` says why it was not measured."""

    stage: Stage
    measured: Measurement | None
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        stage, has_target = self.stage, self.stage.target is not None
        return {
            "stage": stage.name,
            "group": stage.group,
            **asdict(self.measured or Measurement(None)),
            "target": stage.target,
            "target_of": stage.target_of if has_target else None,
            "target_is": stage.target_is if has_target else None,
            "met": stage.met(self.measured),
            "unit": stage.unit,
            "meaning": stage.meaning,
            "skipped": self.skipped or None,
        }

    def __str__(self) -> str:
        row, stage = self.to_json(), self.stage
        figures = [
            f"{row[key]:,.3g}" if row[key] else "–" for key in ("ours", "reference", "ratio")
        ]
        unit = "×" if stage.target_of == "ratio" else f" {stage.unit}"
        target = f"{stage.target_is} {stage.target:g}{unit}" if stage.target else ""
        verdict = {True: "ok", False: "short", None: self.skipped}[row["met"]]
        cells = COLUMNS.format(stage.name, *figures[:2], stage.unit, figures[2], target, verdict)
        return "\n    ".join(text for text in (cells, stage.meaning, row["note"]) if text)


def choose(names: Sequence[str], device: str) -> list[Stage]:
    """The stages of a device, or those that ``names`` of stages or groups choose.

    Raises:
        UserError: no such stage or group, or none of them is about this device.
    """
    known = {name for stage in STAGES.values() for name in (stage.name, stage.group)}
    for name in set(names) - known:
        raise unknown_name("stage", name, known)
    chosen = [
        stage
        for stage in STAGES.values()
        if stage.device == device and (not names or {stage.name, stage.group} & set(names))
    ]
    if not chosen:
        raise UserError(f"--stages {' '.join(names)}: none of them is measured on {device}")
    return chosen


def run_stages(stages: Sequence[Stage], bench: Bench) -> Iterator[Row]:
    """Yield each row as soon as it is measured; what cannot be measured here is skipped."""
    for stage in stages:
        try:
            yield Row(stage, stage.measure(bench))
        except Unavailable as reason:
            yield Row(stage, None, str(reason))


def draw_time(rows: Sequence[Row], folder: Path) -> Path | None:
    """Draw a bar of where an epoch's time goes for each row that has it; None if none has."""
    import pandas as pd

    from seglab.figures.style import new_figure

    measured = {row.stage.name: row.measured for row in rows if row.measured}
    splits = {name: found.split for name, found in measured.items() if found.split}
    if not splits:
        return None
    table = pd.DataFrame(splits).T.fillna(0)
    figure = new_figure(9, 1.3 + 0.7 * len(splits))
    axes = figure.subplots()
    (100 * table.div(table.sum(axis=1), axis=0)).plot.barh(stacked=True, ax=axes)
    axes.set_xlabel("% of a training epoch's time")
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.35), ncols=4, frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "time.png", bbox_inches="tight")
    return folder / "time.png"


def describe_machine(device: str) -> dict[str, Any]:
    """Name processor, cores, threads, precision, memory, GPU and the versions that matter."""
    import torch

    from seglab.core.config import Train
    from seglab.learning.device import choose_compute, has_fast_bf16
    from seglab.tracking.environment import machine

    compute = choose_compute(Train(device=device))
    return {
        **machine(str(compute.device)),
        "cores": os.cpu_count(),
        "threads": compute.threads,
        "precision": compute.precision,
        "multiplies_bf16": has_fast_bf16(compute.device),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m benchmarks`` with these arguments; returns the exit status."""
    parser = Parser(
        prog="python -m benchmarks",
        description="Measure every stage on this machine, in turn with what most people write.\n"
        "Makes phantoms in a temporary folder; all stages take about ten minutes on two cores.",
        epilog="examples:\n  python -m benchmarks\n  python -m benchmarks --stages prepare batches",
    )
    parser.add_argument(
        "--stages", nargs="+", default=(), metavar="STAGE", help="or groups of them"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to draw the time's picture")
    add_json(parser)
    return run_command(_bench, parser.parse_args(argv))


def _bench(arguments: argparse.Namespace) -> int:
    import torch

    import benchmarks.stages  # noqa: F401  (registers)

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device; cpu is measured without it")
    stages, started, rows = choose(arguments.stages, arguments.device), time.perf_counter(), []
    say = sys.stderr if arguments.json else sys.stdout
    machine = describe_machine(arguments.device)
    print(", ".join(f"{key} {value}" for key, value in machine.items()), file=say)
    titles = ("stage", "seglab", "reference", "unit", "ratio", "target", "")
    print(COLUMNS.format(*titles), file=say)
    with Bench(arguments.device) as bench:
        for row in run_stages(stages, bench):
            rows.append(row)
            print(row, file=say, flush=True)
    verdicts = [verdict for row in rows if (verdict := row.stage.met(row.measured)) is not None]
    minutes = (time.perf_counter() - started) / 60
    print(f"{sum(verdicts)} of {len(verdicts)} targets met in {minutes:.1f} minutes", file=say)
    if arguments.out is not None and (picture := draw_time(rows, arguments.out)):
        print(f"where the time goes: {picture}", file=sys.stderr)
    if arguments.json:
        print(json_text({"machine": machine, "stages": [row.to_json() for row in rows]}))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
