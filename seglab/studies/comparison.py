"""An ablation, judged: verdicts, strata, budgets and costs of its arms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seglab.core.errors import UserError, unknown_name
from seglab.evaluation.comparison import ArmRow, ArmScores, ArmSummary, Comparison, compare_arms
from seglab.evaluation.metrics import PatientScore
from seglab.evaluation.scores import SIZES, stratify, summarise
from seglab.studies.budget import METRIC, Budgets, Spent
from seglab.studies.results import Ablation, Arm
from seglab.tracking import tags
from seglab.tracking.tags import ARM, VALUES

NOT_RANKED, IS_BASELINE, OTHER_TARGET = "not ranked", "baseline", "other target"
COSTS = ("parameters_m", "gflops_per_image", "images_per_second", "train_seconds")
FEWEST_PER_STRATUM = 2
EXTREMES = 3


@dataclass(frozen=True)
class Stratum:
    """The comparison among some of the patients; explores, and claims nothing."""

    name: str
    rule: str
    comparison: Comparison


@dataclass(frozen=True)
class PatientDifference:
    """How one patient's score changes from the baseline to an arm, seeds averaged."""

    patient_id: str
    truth: str
    grade: str | None
    baseline: float
    arm: float

    @property
    def difference(self) -> float:
        """Arm minus baseline."""
        return self.arm - self.baseline


@dataclass(frozen=True)
class ComparedAblation:
    """Everything a report says in numbers."""

    ablation: Ablation
    comparison: Comparison
    verdicts: Mapping[str, str]
    """Arm to verdict; ``not ranked`` where its budget differs from the baseline's, ``other
    target`` where it segments something else."""
    others: Sequence[ArmSummary]
    """Arms of another target: scored against another truth, so held against no arm."""
    budgets: Budgets
    strata: Sequence[Stratum]
    costs: Mapping[str, Mapping[str, float]]
    """Arm to cost to the mean over its runs."""
    other_scores: Mapping[str, Mapping[str, float]]
    """Arm to the figures of :func:`summarise`, averaged over seeds."""
    dice: Mapping[str, Mapping[str, float]]
    """Arm to patient to Dice, seeds averaged; compared patients only."""
    patients: Mapping[str, PatientScore]
    """A row of each compared patient, for what is true of it under every arm."""

    @property
    def summaries(self) -> Sequence[ArmSummary]:
        """Every arm: best first if the budgets allow a ranking, else as in the file.

        Arms of another target come last.
        """
        every = {row.arm: row for row in (self.comparison.baseline, *self.comparison.rows)}
        if self.budgets.all_equal:
            return [*sorted(every.values(), key=lambda row: -row.mean), *self.others]
        ordered = [every[arm.name] for arm in self.ablation.arms if arm.name in every]
        return [*ordered, *self.others]

    @property
    def rows(self) -> Sequence[ArmRow]:
        """The arms that are held against the baseline, in the order of ``summaries``."""
        return [row for row in self.summaries if isinstance(row, ArmRow)]

    @property
    def warnings(self) -> Sequence[str]:
        """What a reader must know before the figures."""
        compared = {arm.name for arm in self.ablation.arms}
        unfinished = [
            f"{run.name} is not in the comparison: {run.status.lower()}"
            + (f", {reason}" if (reason := run.tags.get(tags.ERROR)) else "")
            for run in self.ablation.unfinished
            if run.tags[ARM] in compared
        ]
        others = [
            f"{arm.name} segments {arm.target}, another target than the baseline's: no verdict"
            for arm in self.ablation.arms
            if self.verdicts.get(arm.name) == OTHER_TARGET
        ]
        return [*self.comparison.warnings, *self.ablation.warnings, *others, *unfinished]

    def differences(self, arm: str) -> list[PatientDifference]:
        """Every patient's change from the baseline, largest gain first."""
        base = self.dice[self.comparison.baseline.arm]
        found = [
            PatientDifference(
                name, tumour_size(score), score.grade, base[name], self.dice[arm][name]
            )
            for name, score in self.patients.items()
        ]
        return sorted(found, key=lambda change: -change.difference)

    def to_json(self) -> dict[str, Any]:
        """The keys of ``compare --json``; the baseline is the first of the arms."""
        base = self.comparison.baseline
        first = {
            **vars(base),
            "diff": 0.0,
            "ci_low": 0.0,
            "ci_high": 0.0,
            "p": None,
            "p_holm": None,
            "verdict": IS_BASELINE,
        }
        rows = [{**vars(row), "verdict": self.verdicts[row.arm]} for row in self.comparison.rows]
        nothing = dict.fromkeys(first.keys() - vars(base).keys())
        others = [vars(row) | nothing | {"verdict": OTHER_TARGET} for row in self.others]
        return {
            "experiment": self.ablation.experiment,
            "parent_run_id": self.ablation.parent.run_id,
            "baseline": base.arm,
            "n_patients": self.comparison.n_patients,
            "ranked": self.budgets.all_equal,
            "refusal": self.budgets.refusal(),
            "warnings": list(self.warnings),
            "arms": [first, *rows, *others],
        }


def compare_ablation(ablation: Ablation, baseline: str | None = None) -> ComparedAblation:
    """Compare the arms of an ablation, patient by patient.

    Args:
        ablation: as :func:`seglab.studies.results.collect` read it.
        baseline: another arm than the experiment's to compare with.

    Raises:
        UserError: the baseline has no finished run, or arms lack patients of each other.
    """
    baseline = baseline or ablation.baseline
    names = [arm.name for arm in ablation.arms]
    if baseline not in names:
        if baseline == ablation.baseline:
            raise UserError(f"the baseline arm '{baseline}' has no finished run")
        raise unknown_name("baseline arm", baseline, names)
    target = next(arm.target for arm in ablation.arms if arm.name == baseline)
    same = [arm for arm in ablation.arms if arm.target == target]
    scores = [arm_scores(arm) for arm in same]
    comparison = compare_arms(scores, baseline)
    others = [arm_scores(arm) for arm in ablation.arms if arm.target != target]
    budgets = Budgets(ablation.unit, [_spent(arm, ablation) for arm in ablation.arms])
    verdicts = {
        row.arm: NOT_RANKED if budgets.differs(row.arm, baseline) else row.verdict
        for row in comparison.rows
    } | {arm.arm: OTHER_TARGET for arm in others}
    first = same[0]
    compared = {s.patient_id: s for s in first.scores(first.seeds[0])}
    return ComparedAblation(
        ablation=ablation,
        comparison=comparison,
        verdicts=verdicts,
        others=[compare_arms([arm], arm.arm).baseline for arm in others],
        budgets=budgets,
        strata=compare_strata(scores, [compared[p] for p in comparison.patients], baseline),
        costs={arm.name: {key: arm.cost(f"cost/{key}") for key in COSTS} for arm in ablation.arms},
        other_scores={arm.name: _other_scores(arm) for arm in ablation.arms},
        dice={arm.arm: _patient_means(arm, comparison.patients) for arm in scores},
        patients={p: compared[p] for p in comparison.patients},
    )


def arm_scores(arm: Arm) -> ArmScores:
    """Lay the patient Dice of an arm's seeds beside each other.

    Raises:
        UserError: a seed lacks a patient that another seed has.
    """
    by_seed = [{s.patient_id: s.dice for s in arm.scores(seed)} for seed in arm.seeds]
    patients = tuple(by_seed[0])
    for seed, found in zip(arm.seeds, by_seed, strict=True):
        missing = set(patients) ^ set(found)
        if missing:
            raise UserError(
                f"arm '{arm.name}', seed {seed}: patient {min(missing)} is not in every seed"
            )
    values = np.array([[found[patient] for patient in patients] for found in by_seed])
    return ArmScores(arm.name, arm.seeds, patients, values)


def tumour_size(score: PatientScore) -> str:
    """Size of the true tumour, in millilitres where the spacing is known."""
    if math.isfinite(score.truth_ml):
        return f"{score.truth_ml:.1f} ml"
    return f"{score.truth_px:,} px"


def compare_strata(
    scores: Sequence[ArmScores], patients: Sequence[PatientScore], baseline: str
) -> list[Stratum]:
    """Compare within thirds by tumour size, and within grades where they are known."""
    sizes = stratify([score.truth_px for score in patients])
    groups = []
    for size in SIZES:
        part = [s for s, name in zip(patients, sizes, strict=True) if name == size]
        part.sort(key=lambda s: s.truth_px)
        if part:
            limits = f"{tumour_size(part[0])} to {tumour_size(part[-1])}"
            groups.append((f"{size} tumours", limits, part))
    for grade in sorted({s.grade for s in patients if s.grade}):
        groups.append((f"grade {grade}", "", [s for s in patients if s.grade == grade]))
    return [
        Stratum(name, rule, compare_arms(_among(scores, part), baseline))
        for name, rule, part in groups
        if len(part) >= FEWEST_PER_STRATUM
    ]


def _among(scores: Sequence[ArmScores], patients: Sequence[PatientScore]) -> list[ArmScores]:
    names = tuple(score.patient_id for score in patients)
    return [
        ArmScores(
            arm.arm,
            arm.seeds,
            names,
            arm.values[:, [arm.patients.index(name) for name in names]],
        )
        for arm in scores
    ]


def _patient_means(arm: ArmScores, patients: Sequence[str]) -> dict[str, float]:
    means = dict(zip(arm.patients, arm.values.mean(axis=0).tolist(), strict=True))
    return {patient: means[patient] for patient in patients}


def _other_scores(arm: Arm) -> dict[str, float]:
    by_seed = [summarise(arm.scores(seed)) for seed in arm.seeds]
    return {key: sum(found[key] for found in by_seed) / len(by_seed) for key in by_seed[0]}


def _spent(arm: Arm, ablation: Ablation) -> Spent:
    trials = sorted(ablation.trials.get(arm.name, ()), key=lambda run: run.start_time)
    # One that failed and was tried again is one trial; one that never finished is none.
    finished = {run.tags[VALUES]: run.metrics for run in trials if run.status == "FINISHED"}
    return Spent(
        arm=arm.name,
        runs=len(arm.children),
        images=arm.cost(METRIC["samples"]),
        train_seconds=arm.cost(METRIC["seconds"]),
        trials=len(finished),
        trial_images=sum(metrics.get(METRIC["samples"], 0.0) for metrics in finished.values()),
        trial_seconds=sum(metrics.get(METRIC["seconds"], 0.0) for metrics in finished.values()),
    )
