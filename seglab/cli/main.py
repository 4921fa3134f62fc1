"""``python -m seglab``: every command and its arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seglab import __version__
from seglab.cli import data, names, study, train
from seglab.cli.shell import DONE, PROGRAM, Parser, add_json, output_folder, print_text, run_command
from seglab.core.errors import UserError, unknown_name

INTRODUCTION = """\
Find out which choices really make better brain-tumour masks.
COMMAND --help says more; run_experiment.py is `run`, sweep.py is `sweep`; --version.
"""
SCRIPTS = {"run": "run_experiment.py", "sweep": "sweep.py"}
"""Of a checkout."""
CONTINUED = {*SCRIPTS, "promote"}
"""The same command again continues what was interrupted."""
Argument = tuple[str, dict[str, Any]]


class Command:
    """What a command does, described by ``text``, whose first line stands in the list of all.

    An example is what follows the command's name, a line each.
    """

    def __init__(
        self, do: Callable[[argparse.Namespace], int], text: str, examples: str, *given: Argument
    ) -> None:
        self.do, self.text, self.arguments = do, text, given
        self.examples = examples.split("\n")

    def run(self, program: str, argv: Sequence[str]) -> int:
        """Read the arguments and do it; returns the exit status."""
        epilog = "\n".join(
            ["examples:", *(f"  {program} {line}".rstrip() for line in self.examples)]
        )
        parser = Parser(prog=program, description=self.text, epilog=epilog)
        for flag, options in self.arguments:
            parser.add_argument(flag, **options)
        if self.do not in (study.ui, study.demo):
            add_json(parser)
        return self.do(parser.parse_intermixed_args(argv))


def _argument(flag: str, help: str | None = None, **options: Any) -> Argument:
    return flag, {"help": help, **options}


def _out(help: str, **options: Any) -> Argument:
    return _argument("--out", help, type=output_folder, metavar="DIR", **options)


def _number(flag: str, help: str, default: int, **options: Any) -> Argument:
    return _argument(flag, help, type=int, default=default, **options)


WORKERS = _number("--workers", "processes (default: one a core)", 0)
MODALITIES = "of flair, t1, t1ce, t2: those that every patient must have (default flair)"
FILES = (
    _argument("--source", "e.g. brats-h5; see: list sources", type=data.source_name, required=True),
    _argument("--root", "folder of the files", type=Path, metavar="DIR", required=True),
    _argument("--labels", "as data.labels (default auto)", default="auto"),
    _argument("--persons", "as data.persons", type=Path, metavar="CSV"),
)
SET = (
    *FILES,
    _argument("--modalities", MODALITIES, nargs="+", metavar="NAME", default=["flair"]),
    WORKERS,
)
OTHER = "another set, to find patients that are in both (may be repeated)"
PATHS = _argument(
    "overrides",
    "paths as they are on this machine, and train.device, train.threads",
    nargs="*",
    default=[],
    metavar="data.root=DIR",
)
ONE_WORKER = _number("--workers", "processes (default 1)", 1, metavar="N")
DRY_RUN = _argument("--dry-run", "print the cost, train nothing", action="store_true")
OVERRIDES = _argument(
    "overrides", "laid over the file", nargs="*", default=[], metavar="key.sub=value"
)
COMMANDS = {
    "run": Command(
        train.run,
        "Train one experiment, or every arm × seed of an ablation.\nAn unfinished run of the same "
        "config, data and code is continued, a finished one reported;\nanother process with the "
        "same command shares the arms, or waits for the only run.",
        "experiments/baseline.yaml data.root=path/to/data\n"
        "experiments/losses.yaml data.root=path/to/data --dry-run\n"
        "experiments/losses.yaml --arms bce_dice,focal --workers 2",
        _argument("file", "e.g. experiments/baseline.yaml", type=train.experiment_file),
        OVERRIDES,
        ONE_WORKER,
        _argument("--arms", "only these arms, beside those of earlier commands", metavar="A,B"),
        _argument("--fresh", "train again, even if it is finished", action="store_true"),
        DRY_RUN,
        _argument(
            "--plan", "put on record what will be compared; train nothing", action="store_true"
        ),
    ),
    "sweep": Command(
        train.sweep,
        "Search for the config of the best validation Dice.\nThe same command continues a search "
        "that was stopped or has crashed. On several machines\nit shares the search's trials, with "
        "one MLFLOW_TRACKING_URI and one search.storage.",
        "experiments/sweeps/unet.yaml data.root=path/to/data --workers 2\n"
        "experiments/sweeps/unet.yaml data.root=path/to/data --trials 60 --timeout 120\n"
        "experiments/sweeps/unet.yaml search.storage=postgresql+psycopg://user@server/seglab",
        _argument("file", "e.g. experiments/sweeps/unet.yaml", type=train.experiment_file),
        OVERRIDES,
        ONE_WORKER,
        _argument(
            "--trials", "complete and pruned trials at which the search ends", type=int, metavar="N"
        ),
        DRY_RUN,
        _argument("--timeout", "minutes after which the search stops", type=float, metavar="MIN"),
    ),
    "data phantom": Command(
        data.phantom,
        "Write synthetic patients, in the exact layout of the Kaggle or BraTS files.",
        "--out phantoms --patients 12",
        _out("folder for the files", required=True),
        _number("--patients", "how many (default 12)", 12),
        _number("--size", "side of a slice (default 240)", 240),
        _number("--slices", "slices a patient (default 155)", 155),
        _number("--seed", "of all that is random (default 0)", 0),
        WORKERS,
        _argument(
            "--layout", "of Kaggle (default) or BraTS", choices=("h5", "nifti"), default="h5"
        ),
    ),
    "data download": Command(
        data.download,
        "Fetch the BraTS 2020 slices from Kaggle; an interrupted download continues.\n\n"
        "Kaggle wants a token: on kaggle.com, Settings, API, 'Create New Token' gives\n"
        "kaggle.json, which belongs in ~/.kaggle.",
        "--out brats2020",
        _out("folder for the files", required=True),
    ),
    "data check": Command(
        data.check,
        "Look at every file and say what is missing, broken, double, or misnamed.",
        "--source brats-h5 --root brats2020",
        *SET,
        _argument("--other", OTHER, nargs=2, action="append", metavar=("SOURCE", "DIR")),
        _out("where to write page and picture"),
    ),
    "data prepare": Command(
        data.prepare,
        "Read every file once into a packed cache; training does it too if needed.",
        "--source brats-h5 --root brats2020",
        *SET,
        _argument("--cache", type=Path, metavar="DIR", default=Path(".cache")),
        _number("--size", "data.image_size (default 128)", 128, dest="image_size", metavar="SIZE"),
        _argument("--crop", choices=("brain", "none"), default="brain"),
        _argument("--on-bad-file", choices=("fail", "skip"), default="fail"),
    ),
    "list": Command(
        names.list_names,
        "List what a YAML can name, with a line of explanation each.\n"
        "Kinds: models, their encoders, losses, augmentations, sources of data, and the keys of\n"
        "input and training.",
        "\nlosses",
        _argument("kind", f"one of: {', '.join(names.KINDS)}", nargs="?", metavar="KIND"),
    ),
    "compare": Command(
        study.compare,
        "Compare the arms of an ablation, paired over patients, and write the report.",
        "losses\nlosses --baseline dice --json",
        _argument("experiment", "name of the experiment, or id of its parent run"),
        _argument("--baseline", "default: the experiment's own", metavar="ARM"),
        _out("default: beside the runs"),
    ),
    "promote": Command(
        study.promote,
        "Open the sealed test once, for the best run, and register it as champion.\nTakes the best "
        "finished run by validation Dice, and freezes its operating point on validation before.\n"
        "Where the runs of an experiment have different splits, name the parent run of one study.",
        'losses --ensemble seeds\nRUN_ID --ensemble folds\nRUN_ID --reopen "the table was wrong"',
        _argument("name", metavar="EXPERIMENT|SEARCH|RUN"),
        _argument("--ensemble", "average all seeds or folds of an arm, or top:K", metavar="KIND"),
        _argument("--reopen", "open a test that was opened before", metavar="REASON"),
        _argument("--baseline", "compare with it under the same seal", metavar="RUN"),
        PATHS,
    ),
    "evaluate": Command(
        study.evaluate,
        "Score a frozen model on another data set: external validation, nothing is tuned.\n"
        "Patients that the model was trained, validated or tested on are refused.",
        "losses@champion --source lgg-tif --root kaggle_3m\n"
        "RUN_ID --source brats-nifti --root upenn --leave-out shared",
        _argument("model", "name@alias, run id or files", metavar="MODEL"),
        *FILES,
        _argument(
            "--leave-out",
            "patients that are not scored; shared: all that are refused",
            nargs="+",
            metavar="NAME",
            default=[],
        ),
        PATHS,
    ),
    "predict": Command(
        study.predict,
        "Write a mask, a picture and the volume of every patient in new scans.\n"
        "Inputs are .nii[.gz], .h5 or .tif files, or folders of them, grouped by their names.\n"
        "Not a medical device: for research, and never for a diagnosis.",
        "losses@champion scan_flair.nii.gz --out masks\n"
        "RUN_ID folder --out masks\n"
        "results/checkpoints/weights.safetensors folder --out masks",
        _argument("model", "name@alias, run id or files", metavar="MODEL"),
        _argument("inputs", "files and folders", metavar="INPUT", nargs="+", type=Path),
        _out("folder for masks, pictures and predictions.csv", required=True),
    ),
    "report": Command(
        study.report,
        "Write one page of a whole experiment, ready to hand in.\n"
        "It has the result, method, predictions, failures, comparison, search and limits, from\n"
        "what its runs logged. Nothing is trained; the data need not be there.",
        "losses\nlosses --out handed-in --json",
        _argument("experiment", "name of the experiment"),
        _out("default: beside the runs"),
        _argument("--author", "name below the title", metavar="NAME", default=""),
    ),
    "reproduce": Command(
        study.reproduce,
        "Train a finished run again from what MLflow holds of it, and compare.\n"
        "Says whether the result is equal to the bit, or by how much it is not.",
        "RUN_ID\nlosses@champion\nresults/checkpoints/weights.safetensors",
        _argument("run", "run id, its checkpoint or registered model", metavar="RUN"),
        PATHS,
    ),
    "explain": Command(
        study.explain,
        "Find which changes made the best trial of a search better than its base config.\nEach is "
        "put back, and given to the base, over fresh seeds and patients.\nWrites the smallest set "
        "that does as well.",
        '"unet search"\n"unet search" data.root=DIR --workers 2',
        _argument("sweep", "name of the search, or id of its run", metavar="SEARCH"),
        ONE_WORKER,
        PATHS,
    ),
    "artifacts": Command(
        study.artifacts,
        "Download what a run logged; the same command again replaces what is there.",
        "RUN_ID --out results\nlosses@champion --out results",
        _argument("run", "run id, how it begins, or name@alias of a promoted model"),
        _out("folder for the files", required=True),
        _argument("--pattern", "only these, e.g. 'overlays/*.png'"),
    ),
    "ui": Command(
        study.ui,
        "Open the MLflow UI on the store in use, for this machine only.",
        "--port 5001",
        _argument("--host", "default 127.0.0.1: this machine only", default="127.0.0.1"),
        _number("--port", "default 5000", 5000),
    ),
    "demo": Command(
        study.demo, "Make phantoms, compare arms, search, promote the best run, report.", ""
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m seglab`` with these arguments; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    return run_command(_run, given, continues=not CONTINUED.isdisjoint(given[:1]))


def _run(argv: Sequence[str]) -> int:
    words = 2 if argv[:1] == ["data"] else 1
    name, script = " ".join(argv[:words]), Path(sys.argv[0]).name
    if name in COMMANDS:
        program = f"python {script}" if script == SCRIPTS.get(name) else f"{PROGRAM} {name}"
        return COMMANDS[name].run(program, argv[words:])
    if {"-h", "--help"} & set(argv[:words]):
        shown = {key: one for key, one in COMMANDS.items() if words == 1 or key.startswith("data ")}
        lines = [f"  {key:<14} {one.text.splitlines()[0]}" for key, one in shown.items()]
        examples = [f"  {PROGRAM} {key} {one.examples[0]}".rstrip() for key, one in shown.items()]
        print_text("\n".join([INTRODUCTION, "commands:", *lines, "\nexamples:", *examples]))
        return DONE
    if argv == ["--version"]:
        print_text(f"seglab {__version__}")
        return DONE
    if not argv:
        raise UserError(f"name a command: {', '.join(COMMANDS)}")
    raise unknown_name("command", name, COMMANDS)
