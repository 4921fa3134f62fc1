"""Which arms differ from the baseline: paired over patients, one word each.

``better`` or ``worse`` where p, corrected by Holm's method, is at most the level; ``equivalent``
where two one-sided tests place the difference within the margin; else ``undecided``. Intervals
have the confidence of Holm's last step: they leave 0 outside just where an arm is called different.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from seglab.core.errors import UserError, unknown_name
from seglab.core.study import MARGIN, Study
from seglab.evaluation.scores import FEWEST_WITH_INTERVAL, half_widths, spread
from seglab.evaluation.statistics import (
    FEWEST_WITH_VERDICT,
    RESAMPLES,
    FloatArray,
    PairedTest,
    holm,
    paired_test,
    patients_to_decide,
    seed_variance,
    share_first,
)

Verdict = Literal["better", "worse", "equivalent", "undecided"]
LEVEL = 0.05
FEWEST_PATIENTS = 6  # fewer all have one sign by chance in 2 ** (1 - n) of cases, more than 5 %


@dataclass(frozen=True)
class ArmSummary:
    """One arm by itself."""

    arm: str
    seeds: int
    mean: float
    mean_low: float  # 95 % interval of the mean over patients, within [0, 1] as Dice is
    mean_high: float
    sd_patients: float  # spread over patients of the score averaged over seeds (n - 1)
    sd_seeds: float  # spread over seeds of the mean over patients (n - 1); NaN with one seed
    share_first: float  # of the resamples of patients in which no arm has a higher mean


@dataclass(frozen=True)
class ArmRow(ArmSummary):
    """One arm against the baseline; differences are arm minus baseline."""

    diff: float
    ci_low: float
    """In [-1, 1], at ``Comparison.confidence``; NaN where so few patients bound nothing."""
    ci_high: float
    sd_diff: float  # spread over patients of the difference
    error: float  # standard error of the difference, of patients and seeds
    p: float  # of the test that gives the interval and the verdict, two-sided
    p_holm: float  # corrected over the arms of the comparison
    p_wilcoxon: float  # signed-rank test over patients, two-sided; no verdict rests on it
    p_equivalence: float  # two one-sided tests within the margin
    verdict: Verdict
    patients_to_find: int | None
    """Patients that would show the difference if the figures held; None: no number would."""
    patients_to_equate: int | None
    """Patients that would show equivalence; likewise."""
    patients_needed: int | None  # the fewer of both
    wins: int  # patients the arm scores higher than the baseline
    losses: int

    @property
    def needs_seeds(self) -> bool:
        """Whether no number of patients would decide, for the variance of so few seeds."""
        return self.patients_needed is None and self.seeds > 1


@dataclass(frozen=True)
class Comparison:
    """All arms against the baseline."""

    baseline: ArmSummary
    rows: tuple[ArmRow, ...]  # the other arms, in the order given
    patients: tuple[str, ...]
    left_out: tuple[str, ...]  # patients without a score
    sd_run: float  # spread that seeds give to an arm's mean, over all arms; NaN: one seed
    margin: float
    confidence: float  # of the intervals of differences; see the module
    resamples: int
    warnings: tuple[str, ...]

    @property
    def n_patients(self) -> int:
        """Patients compared."""
        return len(self.patients)


def compare_arms(
    arms: Mapping[str, pd.DataFrame],
    baseline: str,
    *,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare every arm with ``baseline``, paired over patients.

    ``arms`` are scores, the higher the better: a row a seed and a column a patient, NaN where a
    patient has none. Differences within ``margin`` do not matter. The bootstrap draws the same
    patients for every arm.

    Raises UserError for no arm, an unknown baseline, arms that lack patients, or no patient with a
    score in every arm.
    """
    patients, left_out, by_seed = pair_patients(arms)
    names = list(arms)
    if baseline not in names:
        raise unknown_name("baseline arm", baseline, names)
    base, noise = names.index(baseline), seed_variance(by_seed)
    others = [i for i in range(len(names)) if i != base]
    means = np.stack([values.mean(axis=0) for values in by_seed])
    differences = means[others] - means[base]
    per_mean = np.array([1 / len(by_seed[i]) + 1 / len(by_seed[base]) for i in others])
    test = paired_test(differences, per_mean, noise, np.random.default_rng(0), resamples)
    confidence, figures = _judge(test, margin)
    of_seeds = np.nan_to_num(noise.component) * per_mean
    first = share_first(means, np.random.default_rng(0), min(resamples, 1_999))
    summaries = list(map(_summary, names, by_seed, half_widths(means), first))
    rows = [
        ArmRow(
            **vars(summaries[i]),
            **figures[k],
            **_of_patients(differences[k], margin, len(others), float(of_seeds[k]), noise.degrees),
        )
        for k, i in enumerate(others)
    ]
    return Comparison(
        baseline=summaries[base],
        rows=tuple(rows),
        patients=patients,
        left_out=left_out,
        sd_run=float(np.sqrt(noise.component)),
        margin=margin,
        confidence=confidence,
        resamples=resamples,
        warnings=_warnings(dict(zip(names, by_seed, strict=True)), len(left_out)),
    )


def not_carried(patients: int) -> dict[str, Any]:
    """Figures that so few patients do not carry, as NaN: limits below five, p below four."""
    limits = ("ci_low", "ci_high") if patients < FEWEST_WITH_INTERVAL else ()
    p = ("p", "p_holm") if patients < FEWEST_WITH_VERDICT else ()
    return dict.fromkeys((*limits, *p), np.nan)


def as_shown(found: Comparison) -> Comparison:
    """Leave out what fewer than five patients cannot carry: intervals, shares, numbers of patients.

    Below four patients there is no p either.
    A number of patients that there were already becomes 0: it was not they that lacked.
    """
    if found.n_patients >= FEWEST_WITH_INTERVAL:
        return replace(
            found, rows=tuple(_still_needed(row, found.n_patients) for row in found.rows)
        )
    unknown: dict[str, Any] = dict.fromkeys(("mean_low", "mean_high", "share_first"), np.nan)
    of_rows = not_carried(found.n_patients) | {"p_equivalence": np.nan}
    of_rows |= {"patients_to_find": None, "patients_to_equate": None}
    if "p" in of_rows:
        of_rows["p_wilcoxon"] = np.nan
    rows = tuple(replace(row, **unknown, **of_rows) for row in found.rows)
    return replace(found, baseline=replace(found.baseline, **unknown), rows=rows)


def _still_needed(row: ArmRow, patients: int) -> ArmRow:
    find, equate = (
        0 if count is not None and count <= patients else count
        for count in (row.patients_to_find, row.patients_to_equate)
    )
    return replace(row, patients_to_find=find, patients_to_equate=equate)


def _judge(test: PairedTest, margin: float) -> tuple[float, list[dict[str, Any]]]:
    p_holm = holm(test.p)
    differs = p_holm < LEVEL + 1e-9  # p are multiples of 1 / (resamples + 1), up to rounding
    last_step = LEVEL / max(1, int(np.count_nonzero(~differs)))
    half, p_equivalence = test.half_width(last_step), test.p_equivalence(margin)
    columns = {
        "diff": test.diff,
        "error": test.error,
        "ci_low": np.clip(test.diff - half, -1.0, None),
        "ci_high": np.clip(test.diff + half, None, 1.0),
        "p": test.p,
        "p_holm": p_holm,
        "p_equivalence": p_equivalence,
        "verdict": np.where(p_equivalence <= LEVEL, "equivalent", "undecided"),
    }
    columns["verdict"][differs] = np.where(test.diff[differs] > 0, "better", "worse")
    return 1 - last_step, pd.DataFrame(columns).to_dict("records")


def _of_patients(
    differences: FloatArray, margin: float, arms: int, of_seeds: float, degrees: int
) -> dict[str, Any]:
    from scipy.stats import wilcoxon

    diff, sd = float(differences.mean()), spread(differences)
    find, equate = patients_to_decide(diff, sd, margin, LEVEL, arms, of_seeds, degrees)
    return {
        "sd_diff": sd,
        "p_wilcoxon": float(wilcoxon(differences).pvalue) if differences.any() else 1.0,
        "patients_to_find": find,
        "patients_to_equate": equate,
        "patients_needed": min((n for n in (find, equate) if n is not None), default=None),
        "wins": int(np.count_nonzero(differences > 0)),
        "losses": int(np.count_nonzero(differences < 0)),
    }


def _summary(arm: str, values: FloatArray, half_width: float, first: float) -> ArmSummary:
    mean = float(values.mean())
    return ArmSummary(
        arm=arm,
        seeds=len(values),
        mean=mean,
        mean_low=max(mean - float(half_width), 0.0),
        mean_high=min(mean + float(half_width), 1.0),
        sd_patients=spread(values.mean(axis=0)),
        sd_seeds=spread(values.mean(axis=1)),
        share_first=float(first),
    )


def pair_patients(
    arms: Mapping[str, pd.DataFrame],
) -> tuple[tuple[str, ...], tuple[str, ...], list[FloatArray]]:
    """Line up arms by patient: who is compared, who is left out (NaN), (seeds, patients) an arm.

    Raises UserError as :func:`compare_arms` does.
    """
    if not arms:
        raise UserError("nothing to compare: no arm has a finished run")
    table = pd.concat(arms)
    for name, scores in arms.items():
        if absent := [patient for patient in table if patient not in scores]:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            told = f"arm '{name}' has no patient {absent[0]}{more}"
            raise UserError(f"{told}: arms are compared on the same patients")
    scored = table.notna().all()
    if not scored.any():
        raise UserError("nothing to compare: no patient has a score in every arm")
    kept, left_out = (tuple(table.columns[who]) for who in (scored, ~scored))
    return kept, left_out, [table.loc[name, scored].to_numpy() for name in arms]


def limits(seeds: Sequence[int], patients: int) -> tuple[str, ...]:
    """What so many seeds an arm and patients cannot show, whatever the scores."""
    found = {
        "one seed only: the spread over seeds is unknown, and a verdict holds for these runs, "
        "not for the methods": max(seeds) == 1,
        f"arms have different numbers of seeds: {min(seeds)} to {max(seeds)}": len(set(seeds)) > 1,
        f"{patients} patients hardly show a difference, whatever their scores: at least "
        f"{FEWEST_PATIENTS} should be compared": patients < FEWEST_PATIENTS,
    }
    return tuple(text for text, applies in found.items() if applies)


def limits_ahead(study: Study, train: int, val: int) -> list[str]:
    """What a comparison could not show, and what to do about it, known before the first run."""
    if len(study.arms) < 2:
        return []
    folds = len(study.folds)
    patients = val + (train if folds > 1 else 0)
    told = list(limits([len(study.seeds)], patients))
    if patients < FEWEST_PATIENTS and folds == 1 and not study.run.split.redraw:
        told.append(
            f"a verdict needs {FEWEST_WITH_VERDICT} validation patients and should have "
            f"{FEWEST_PATIENTS}: raise the second of split.fractions, or set split.folds=3"
        )
    return told


def _warnings(by_seed: Mapping[str, FloatArray], left_out: int) -> tuple[str, ...]:
    values = list(by_seed.values())
    patients = values[0].shape[1]
    told = limits(list(map(len, values)), patients) + tuple(_unstable(by_seed))
    if left_out:
        told += (
            f"{left_out} of {patients + left_out} patients have no score (no tumour) and are "
            "left out",
        )
    return told


def _unstable(by_seed: Mapping[str, FloatArray]) -> Iterator[str]:
    """Name an arm that doubles the variance of seeds, which all share, and fails an F test."""
    from scipy.special import fdtrc

    pooled = seed_variance(list(by_seed.values())).mean_square
    for arm, values in by_seed.items():
        others = [other for name, other in by_seed.items() if name != arm]
        own, rest = seed_variance([values]), seed_variance(others)
        usual = max(float(rest.mean_square), 1e-12)
        if len(others) < 2 or not own.degrees or not rest.degrees or pooled <= 2 * usual:
            continue
        if fdtrc(own.degrees, rest.degrees, own.mean_square / usual) < LEVEL / len(by_seed):
            yield (
                f"arm '{arm}' has an SD of {spread(values.mean(axis=1)):.3f} over seeds, others "
                f"{math.sqrt(usual):.3f}: all intervals rest on what is pooled of both, and are "
                f"wider for it; arms.{arm}=null with another name=… compares the others without "
                "it (--arms leaves it in: it is on record)"
            )
