"""Ablations of drawn scores, logged as runs log theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seglab.evaluation.metrics import PatientScore
from seglab.evaluation.scores import summarise, to_csv
from seglab.tracking.run import RunLog, start_run
from seglab.tracking.store import Store
from seglab.tracking.tags import ARM_HASH, ARMS, BASELINE

PATIENTS = 12
Change = Callable[[list[PatientScore]], list[PatientScore]]


def patient(number: int, dice: float) -> PatientScore:
    """Score of a patient whose other figures follow from the Dice."""
    truth = 2000 + 700 * number
    return PatientScore(
        patient_id=f"BraTS20_Training_{number:03d}",
        grade="LGG" if number % 4 == 0 else "HGG",
        **dict.fromkeys(("dice", "precision", "recall", "dice_slice_tumour", "nsd_2mm"), dice),
        iou=dice / (2 - dice),
        dice_slice_empty1=dice,
        hd95_mm=20 * (1 - dice),
        **dict.fromkeys(("slices", "empty_slices", "empty_slice_fp"), 5),
        **dict.fromkeys(("tp", "fp", "fn", "pred_px"), 100),
        truth_px=truth,
        truth_ml=truth / 1000,
        pred_ml=1.0,
        fp_volume_ml=0.1,
    )


def log_ablation(
    store: Store,
    shifts: Mapping[str, float],
    *,
    seeds: Sequence[int] = (0, 1),
    change: Mapping[str, Change] | None = None,
    tags: Mapping[str, Mapping[str, str]] | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    images: Mapping[str, float] | None = None,
    failing: str | None = None,
) -> RunLog:
    """Log an ablation whose Dice are drawn; its parent is returned, ended."""
    rng = np.random.default_rng(7)
    base = rng.uniform(0.5, 0.85, PATIENTS)
    hashes = {arm: f"hash of {number}" for number, arm in enumerate(shifts)}
    same = {"seglab.split_hash": "s", "seglab.data_hash": "d"}
    about = {ARMS: json.dumps(hashes), BASELINE: next(iter(shifts)), "seglab.kind": "ablation"}
    parent = start_run(store, "losses", "losses · ablation", same | about)
    for seed in seeds:
        for arm, shift in shifts.items():
            dice = base + shift + rng.normal(0, 0.02, PATIENTS)
            scores = [patient(number, float(value)) for number, value in enumerate(dice)]
            scores = (change or {}).get(arm, list)(scores)
            own = {"seglab.kind": "train", "seglab.arm": arm, "seglab.seed": str(seed)}
            own |= same | {ARM_HASH: hashes[arm]} | dict((tags or {}).get(arm, {}))
            run = start_run(store, "losses", f"{arm} · seed {seed}", own, parent.run_id)
            run.params((params or {}).get(arm, {}))
            if arm == failing:
                run.fail("loss is nan")
                continue
            _log_scores(run, scores, (images or {}).get(arm, 1000.0))
    parent.finish()
    return parent


def _log_scores(run: RunLog, scores: Sequence[PatientScore], images: float) -> None:
    run.text(to_csv(scores), "patients_val.csv")
    for epoch in (1, 2, 3):
        run.metrics({"val/loss": 1 / epoch, "val/dice": 0.2 * epoch}, step=epoch)
    final = {f"val/{key}": value for key, value in summarise(scores).items()}
    cost = dict.fromkeys(("train_seconds", "images_per_second", "gflops_per_image"), 2.0)
    cost |= {"parameters_m": 1.0, "images": images}
    run.metrics(final | {f"cost/{key}": value for key, value in cost.items()}, step=4)
    run.finish()
