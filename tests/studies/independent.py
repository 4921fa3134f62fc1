"""The figures of a comparison by scipy and statsmodels, from tables that runs logged."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

EQUAL = {"abs": 1e-9, "rel": 1e-9}


def logged_dice(client: Any, parent_run_id: str, experiment_id: str) -> dict[str, np.ndarray]:
    """Arm to Dice (seeds, patients), downloaded and read with nothing of ours; no folds."""
    runs = client.search_runs(
        [experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent_run_id}' and tags.`seglab.kind` = 'train'",
    )
    found: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        if run.info.status == "FINISHED":
            path = client.download_artifacts(run.info.run_id, "patients_val.csv")
            with Path(path).open(newline="") as file:
                rows = sorted(csv.DictReader(file), key=lambda row: row["patient_id"])
            seeds = found.setdefault(run.data.tags["seglab.arm"], {})
            seeds[int(run.data.tags["seglab.seed"])] = [float(row["dice"]) for row in rows]
    return {arm: np.array([seeds[seed] for seed in sorted(seeds)]) for arm, seeds in found.items()}


def assert_same_figures(report: Mapping[str, Any], dice: Mapping[str, np.ndarray]) -> None:
    """Hold ``comparison.json`` against figures of other libraries, to 1e-9."""
    means = {arm: values.mean(axis=0) for arm, values in dice.items()}
    others = [row for row in report["arms"] if row["arm"] != report["baseline"]]
    corrected = multipletests([row["p"] for row in others], method="holm")[1]
    for row, holm in zip(others, corrected, strict=True):
        arm, base = means[row["arm"]], means[report["baseline"]]
        expected = expected_row(arm, base, dice[row["arm"]])
        assert row["p_holm"] == pytest.approx(holm, **EQUAL)
        assert (row["p_holm"] <= 0.05) == (row["verdict"] in ("better", "worse"))
        for key, value in expected.items():
            assert row[key] == pytest.approx(value, **EQUAL), (row["arm"], key)
    assert report["sd_run"] == pytest.approx(sd_run(dice), abs=1e-9)


def expected_row(arm: np.ndarray, base: np.ndarray, by_seed: np.ndarray) -> dict[str, float]:
    d = arm - base
    return {
        "mean": float(arm.mean()),
        "diff": float(d.mean()),
        "p_wilcoxon": float(stats.wilcoxon(d).pvalue) if d.any() else 1.0,
        "sd_diff": float(stats.tstd(d)),
        "sd_patients": float(stats.tstd(arm)),
        **({"sd_seeds": float(stats.tstd(by_seed.mean(axis=1)))} if len(by_seed) > 1 else {}),
        "wins": int((d > 0).sum()),
        "losses": int((d < 0).sum()),
    }


def sd_run(dice: Mapping[str, np.ndarray]) -> float:
    """Variance component of seeds, by the analysis of variance of seeds × patients."""
    import pandas as pd
    from statsmodels.formula.api import ols

    excess, degrees = 0.0, 0
    for values in dice.values():
        seeds, patients = values.shape
        if seeds < 2:
            return math.nan
        seed, patient = np.indices(values.shape).reshape(2, -1)
        table = pd.DataFrame({"dice": values.ravel(), "seed": seed, "patient": patient})
        squares = anova_lm(ols("dice ~ C(seed) + C(patient)", table).fit())["mean_sq"]
        excess += (squares["C(seed)"] - squares["Residual"]) / patients * (seeds - 1)
        degrees += seeds - 1
    return math.sqrt(max(0.0, excess / degrees))
