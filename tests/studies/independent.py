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
from statsmodels.stats.weightstats import ttost_paired

RESAMPLES, MARGIN = 10_000, 0.01
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
    p = [_p(means[row["arm"]] - means[report["baseline"]]) for row in others]
    corrected = multipletests(p, method="holm")[1]
    for row, raw, holm in zip(others, p, corrected, strict=True):
        arm, base = means[row["arm"]], means[report["baseline"]]
        expected = expected_row(arm, base, dice[row["arm"]])
        assert row["p"] == pytest.approx(raw, **EQUAL)
        assert row["p_holm"] == pytest.approx(holm, **EQUAL)
        for key, value in expected.items():
            assert row[key] == pytest.approx(value, **EQUAL), (row["arm"], key)
    assert report["sd_run"] == pytest.approx(sd_run(dice), abs=1e-9)


def _p(differences: np.ndarray) -> float:
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def expected_row(arm: np.ndarray, base: np.ndarray, by_seed: np.ndarray) -> dict[str, float]:
    d = arm - base
    half = half_width(d)
    return {
        "mean": float(arm.mean()),
        "diff": float(d.mean()),
        "ci_low": float(d.mean() - half),
        "ci_high": float(d.mean() + half),
        "sd_diff": float(stats.tstd(d)),
        "sd_patients": float(stats.tstd(arm)),
        **({"sd_seeds": float(stats.tstd(by_seed.mean(axis=1)))} if len(by_seed) > 1 else {}),
        "p_equivalence": float(ttost_paired(arm, base, -MARGIN, MARGIN)[0]),
        "wins": int((d > 0).sum()),
        "losses": int((d < 0).sum()),
    }


def half_width(d: np.ndarray) -> float:
    """Symmetric studentised bootstrap; Student's for few patients."""
    n = len(d)
    if n < 8:
        return float(stats.sem(d) * stats.t.ppf(0.975, n - 1))
    draws = d[np.random.default_rng(0).integers(0, n, (RESAMPLES, n))]
    pivots = np.sort(np.abs(draws.mean(axis=1) - d.mean()) / stats.sem(draws, axis=1))
    return float(pivots[math.ceil(0.95 * RESAMPLES) - 1] * stats.sem(d))


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
