"""Learning curves: what is drawn is what was logged."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from seglab.figures.curves import learning_curves

HISTORY = [
    {"train/loss": 0.9, "val/loss": 1.0, "val/dice": 0.2, "val/iou": 0.1, "lr": 1e-3},
    {"train/loss": 0.5, "val/loss": math.inf, "val/dice": 0.8, "val/iou": 0.7, "lr": 5e-4},
    {"train/loss": 0.4, "val/loss": 0.7, "val/dice": math.nan, "val/iou": 0.6, "lr": 1e-4},
]


def line(axes: Axes, label: str) -> np.ndarray:
    (found,) = [drawn for drawn in axes.get_lines() if drawn.get_label() == label]
    return np.asarray(found.get_ydata())


def test_values_are_drawn_and_gaps_left() -> None:
    history = [{**row, "epoch": number} for number, row in enumerate(HISTORY, start=1)]
    loss, score, rate = learning_curves(history, 2).axes
    assert line(loss, "training") == pytest.approx([0.9, 0.5, 0.4])
    assert line(loss, "validation") == pytest.approx([1.0, np.nan, 0.7], nan_ok=True)
    assert line(score, "IoU") == pytest.approx([0.1, 0.7, 0.6])
    assert rate.get_lines()[0].get_ydata() == pytest.approx([1e-3, 5e-4, 1e-4])


def test_an_epoch_may_say_its_number() -> None:
    score = learning_curves([{"epoch": 7, "val/dice": 0.5}], 7).axes[1]
    labels = [text.get_text() for text in score.get_legend().get_texts()]
    assert "kept: 0.500 at epoch 7" in labels


def test_missing_scores_and_a_backend_of_a_notebook_do_no_harm(tmp_path: Path) -> None:
    code = "from seglab.figures.curves import learning_curves\n"
    code += "learning_curves([{'epoch': 1, 'train/loss': 1.0}], 1).savefig('curves.png')"
    environment = {**os.environ, "MPLBACKEND": "module://nowhere.backend_inline"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "curves.png").is_file()
