"""The promoted model as an ONNX file in the promotion run, if it is the same model."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from seglab.learning.bundle import ModelBundle
from seglab.learning.onnx import MASK_TOLERANCE, TOLERANCE, check_onnx, export_onnx
from seglab.studies.data import StudyData
from seglab.tracking import RunLog, tags

ONNX = tags.ONNX
"""Tag of a promotion run and of its model: how the file compares, or why there is none."""
LONGEST = 500
FOLDER, FILE = "onnx", "model.onnx"


def log_onnx(log: RunLog, bundle: ModelBundle, data: StudyData) -> str:
    """Export, compare on validation patients, and log the file if it is equal.

    A network that cannot be exported keeps nobody from a promotion.

    Returns:
        What the tag says.
    """
    with tempfile.TemporaryDirectory(prefix="seglab-") as folder:
        path = Path(folder) / FILE
        try:
            export_onnx(bundle, path)
            check = check_onnx(bundle, path, data.cache, data.split.val)
        except Exception as error:  # exporter and runtime raise what they like
            found = absence(error)
        else:
            log.json({**vars(check), "equal": check.equal, "tolerance": TOLERANCE,
                      "mask_tolerance": MASK_TOLERANCE}, f"{FOLDER}/check.json")  # fmt: skip
            found = str(check) if check.equal else f"none: not the same model: {check}"
            if check.equal:
                log.artifact(path, FOLDER)
    if found.startswith("none"):
        print(f"warning: no ONNX file: {found.removeprefix('none: ')}", file=sys.stderr)
    log.tags({ONNX: found})
    return found


def absence(error: Exception) -> str:
    """Say why there is no file, in a line that fits a tag; an error may be without words."""
    lines = str(error).strip().splitlines()
    return ": ".join(["none", type(error).__name__, *lines[:1]])[:LONGEST]
