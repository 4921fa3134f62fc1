"""The comparison of an ablation's arms: verdicts, strata, budgets and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from seglab.core.errors import UserError, unknown_name
from seglab.evaluation.comparison import ArmRow, ArmSummary, Comparison, as_shown, compare_arms
from seglab.evaluation.factors import FactorEffects, factor_effects
from seglab.evaluation.learning_curve import LearningCurve, learning_curve
from seglab.evaluation.metrics import PatientScore
from seglab.evaluation.scores import FEWEST_WITH_INTERVAL, SIZES, size_text, stratify, summarise
from seglab.studies.results import Ablation, Arm, Unit
from seglab.tracking.tags import ARM, DATA_HASH, ERROR, VALUES

NOT_RANKED, IS_BASELINE, OTHER_TARGET = "not ranked", "baseline", "other target"
COSTS = ("parameters_m", "gflops_per_image", "images_per_second", "train_seconds")
FEWEST_PER_STRATUM = 2
TOLERANCE = 0.10
"""Arms whose budgets differ by more than this share are not ranked."""
BUDGET: Mapping[Unit, tuple[str, str]] = {
    "samples": ("images", "trial_images"),
    "seconds": ("train_seconds", "trial_seconds"),
}
"""What must be equal: of a run, and of all tuning runs together."""


@dataclass(frozen=True)
class Budgets:
    """What all arms spent, and which of them may be compared."""

    unit: Unit
    arms: Mapping[str, Mapping[str, float]]
    """``runs`` that finished and their mean ``images`` (samples) and ``train_seconds``; finished
    tuning ``trials``, and ``trial_images`` and ``trial_seconds`` of all of them together."""

    def differs(self, arm: str, other: str) -> bool:
        """Whether two arms were given budgets too different to rank one above the other."""
        a, b = self.arms[arm], self.arms[other]
        pairs = [(a[key], b[key]) for key in BUDGET[self.unit]]
        return a["trials"] != b["trials"] or any(max(p) > min(p) * (1 + TOLERANCE) for p in pairs)

    @property
    def all_equal(self) -> bool:
        """Whether every arm may be ranked against every other."""
        return not any(self.differs(a, b) for a in self.arms for b in self.arms)

    def refusal(self) -> str | None:
        """Say why arms are not ranked; None where they may be."""
        if self.all_equal:
            return None
        told, trials = [], {spent["trials"] for spent in self.arms.values()}
        for arm, spent in self.arms.items():
            run, tuning = (spent[key] for key in BUDGET[self.unit])
            more = f" and {spent['trials']} tuning trials of {tuning:,.0f} in all"
            told.append(f"{arm} {run:,.0f}{more if any(trials) else ''}")
        noun, remedy = {
            "samples": (
                "images",
                "set train.samples_per_epoch and train.epochs alike, and no train.patience",
            ),
            "seconds": ("seconds of training", "give all of them seconds enough for many steps"),
        }[self.unit]
        if len(trials) > 1:
            remedy += "; the same command repeats tuning trials that failed"
        return (
            f"Not ranked: budgets differ by more than {TOLERANCE:.0%} ({noun} a run: "
            f"{', '.join(told)}). What more training gave cannot be told from what the arm gave; "
            f"{remedy}."
        )


@dataclass(frozen=True)
class Stratum:
    """The comparison among some of the patients; it explores and gives no verdict."""

    name: str
    rule: str
    comparison: Comparison

    def to_json(self) -> dict[str, Any]:
        """As ``comparison.json`` holds it."""
        rows, base = self.comparison.rows, self.comparison.baseline
        about = {"name": self.name, "rule": self.rule, "n_patients": self.comparison.n_patients}
        return {**about, "baseline": vars(base), "arms": [vars(row) for row in rows]}


@dataclass(frozen=True)
class ComparedAblation:
    """Everything a report says of the arms in numbers; mappings are by arm."""

    ablation: Ablation
    comparison: Comparison
    verdicts: Mapping[str, str]
    """``not ranked`` where a budget differs from the baseline's, ``other target`` where
    something else is segmented."""
    others: Sequence[ArmSummary]
    """Arms of another target, which are scored against another truth."""
    budgets: Budgets
    strata: Sequence[Stratum]
    costs: Mapping[str, Mapping[str, float]]
    """Means over the runs."""
    other_scores: Mapping[str, Mapping[str, float]]
    """Figures of :func:`summarise`, averaged over seeds."""
    dice: pd.DataFrame
    """A row a compared patient, a column an arm; seeds averaged."""
    patients: Mapping[str, PatientScore]
    """A row of each compared patient, for what is true of it under every arm."""
    factors: FactorEffects | None
    """Where the arms are the levels of factors, all finished and with the same budget."""
    learning: LearningCurve | None
    """Where the arms are numbers of training patients."""

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""
        return self.comparison.baseline.arm

    @property
    def summaries(self) -> Sequence[ArmSummary]:
        """Every arm in the order of the file; those of another target come last."""
        every = {row.arm: row for row in (self.comparison.baseline, *self.comparison.rows)}
        ordered = [every[arm.name] for arm in self.ablation.arms if arm.name in every]
        return [*ordered, *self.others]

    @property
    def rows(self) -> Sequence[ArmRow]:
        """The arms that are compared with the baseline, in the order of ``summaries``."""
        return [row for row in self.summaries if isinstance(row, ArmRow)]

    def as_shown(self) -> ComparedAblation:
        """As a page shows it: without intervals where there are fewer than five patients."""
        strata = [replace(one, comparison=as_shown(one.comparison)) for one in self.strata]
        found, learning = self.comparison, self.learning
        others = [as_shown(replace(found, baseline=one, rows=())).baseline for one in self.others]
        if learning and found.n_patients < FEWEST_WITH_INTERVAL:
            learning = learning.without_intervals()
        return replace(
            self,
            comparison=as_shown(found),
            strata=strata,
            others=others,
            factors=self.factors and self.factors.as_shown(),
            learning=learning,
        )

    @cached_property
    def deviations(self) -> list[str] | None:
        """What was not done as planned before the first run; None where there was no plan."""
        if (plan := self.ablation.plan) is None:
            return None
        seeds = {arm.name: {*arm.seeds} for arm in self.ablation.arms}
        folds = {one.fold for arm in self.ablation.arms for one in arm.runs}
        data = {
            arm.name: {one.run.tags.get(DATA_HASH) for one in arm.runs}
            for arm in self.ablation.arms
        }
        margin, parent = self.ablation.margin, self.ablation.parent
        return plan.deviations(parent, self.baseline, margin, seeds, folds, data)

    @property
    def warnings(self) -> Sequence[str]:
        """What a reader must know before the figures."""
        targets = {arm.name: arm.target for arm in self.ablation.arms}
        unfinished = [
            f"run {run.name} is not in the comparison: "
            + ", ".join(filter(None, (run.status.lower(), run.tags.get(ERROR))))
            for run in self.ablation.unfinished
            if run.tags[ARM] in targets
        ]
        others = [
            f"arm {one.arm} segments {targets[one.arm]}, not the baseline's target: no verdict"
            for one in self.others
        ]
        if self.ablation.design and not (self.factors or self.learning):
            others.append("no effects of factors: some arms are not finished, or had other budgets")
        deviations = [f"not as planned: {told}" for told in self.deviations or ()]
        known = [*self.comparison.warnings, *self.ablation.warnings]
        return [*deviations, *known, *others, *unfinished]

    def to_json(self) -> dict[str, Any]:
        """Everything as ``comparison.json`` holds it; the baseline is the first of the arms."""
        base, comparison, plan = self.comparison.baseline, self.comparison, self.ablation.plan
        no_difference = {"diff": 0.0, "ci_low": 0.0, "ci_high": 0.0, "p": None, "p_holm": None}
        unknown = dict.fromkeys((*no_difference, "share_first"))
        arms = [
            vars(base) | no_difference | {"verdict": IS_BASELINE},
            *(vars(row) | {"verdict": self.verdicts[row.arm]} for row in comparison.rows),
            *(vars(row) | unknown | {"verdict": OTHER_TARGET} for row in self.others),
        ]
        return {
            "experiment": self.ablation.experiment,
            "parent_run_id": self.ablation.parent.run_id,
            "baseline": base.arm,
            "n_patients": comparison.n_patients,
            "ranked": self.budgets.all_equal,
            "refusal": self.budgets.refusal(),
            "warnings": list(self.warnings),
            "arms": arms,
            "margin": comparison.margin,
            "confidence": comparison.confidence,
            "resamples": comparison.resamples,
            "sd_run": comparison.sd_run,
            "budget": {
                "unit": self.budgets.unit,
                "arms": [{"arm": arm, **spent} for arm, spent in self.budgets.arms.items()],
            },
            "costs": self.costs,
            "other_scores": self.other_scores,
            "strata": [stratum.to_json() for stratum in self.strata],
            "factors": self.factors.to_json() if self.factors else None,
            "learning_curve": self.learning.to_json() if self.learning else None,
            "plan": plan and {"hash": plan.hash, "deviations": self.deviations},
            "left_out": list(comparison.left_out),
        }


def compare_ablation(ablation: Ablation, baseline: str | None = None) -> ComparedAblation:
    """Compare the arms of an ablation patient by patient, with its baseline or another.

    Raises:
        UserError: the baseline has no finished run, or arms lack patients of each other.
    """
    baseline = baseline or ablation.baseline
    arms = {arm.name: arm for arm in ablation.arms}
    if baseline not in arms:
        if baseline == ablation.baseline:
            raise UserError(f"the baseline arm '{baseline}' has no finished run")
        raise unknown_name("baseline arm", baseline, arms)
    base, design = arms[baseline], ablation.design
    scores = {arm.name: arm_scores(arm) for arm in ablation.arms if arm.target == base.target}
    comparison = compare_arms(scores, baseline, margin=ablation.margin)
    others = {arm.name: arm_scores(arm) for arm in ablation.arms if arm.target != base.target}
    budgets = Budgets(ablation.unit, {arm.name: _spent(arm, ablation) for arm in ablation.arms})
    verdicts = {
        row.arm: NOT_RANKED if budgets.differs(row.arm, baseline) else row.verdict
        for row in comparison.rows
    } | dict.fromkeys(others, OTHER_TARGET)
    known = {score.patient_id: score for score in base.scores(base.seeds[0])}
    patients = {name: known[name] for name in comparison.patients}
    by_seed = {
        arm.name: pd.DataFrame([summarise(arm.scores(seed)) for seed in arm.seeds])
        for arm in ablation.arms
    }
    return ComparedAblation(
        ablation=ablation,
        comparison=comparison,
        verdicts=verdicts,
        others=[compare_arms({name: one}, name).baseline for name, one in others.items()],
        budgets=budgets,
        strata=compare_strata(scores, list(patients.values()), baseline, ablation.margin),
        costs={arm.name: {key: arm.cost(f"cost/{key}") for key in COSTS} for arm in ablation.arms},
        other_scores={arm: one.mean(skipna=False).to_dict() for arm, one in by_seed.items()},
        dice=pd.DataFrame({name: one[[*patients]].mean() for name, one in scores.items()}),
        patients=patients,
        factors=factor_effects(scores, design) if design and budgets.all_equal else None,
        learning=learning_curve(scores, design) if design else None,
    )


def arm_scores(arm: Arm) -> pd.DataFrame:
    """Lay out the Dice of an arm, a row a seed, a column a patient that must be in each."""
    by_seed = [{s.patient_id: s.dice for s in arm.scores(seed)} for seed in arm.seeds]
    for seed, found in zip(arm.seeds, by_seed, strict=True):
        if missing := found.keys() ^ by_seed[0].keys():
            raise UserError(
                f"arm '{arm.name}', seed {seed}: patient {min(missing)} is not in every seed"
            )
    return pd.DataFrame(by_seed)


def compare_strata(
    scores: Mapping[str, pd.DataFrame],
    patients: Sequence[PatientScore],
    baseline: str,
    margin: float,
) -> list[Stratum]:
    """Compare within thirds by tumour size, and within grades where they are known."""
    sizes = stratify([score.truth_px for score in patients])
    groups = []
    for size in SIZES:
        part = [s for s, name in zip(patients, sizes, strict=True) if name == size]
        part.sort(key=lambda s: s.truth_px)
        if part:
            limits = " to ".join(size_text(s.truth_ml, s.truth_px) for s in (part[0], part[-1]))
            groups.append((f"{size} tumours", limits, part))
    for grade in sorted({s.grade for s in patients if s.grade}):
        groups.append((f"grade {grade}", "", [s for s in patients if s.grade == grade]))
    found = []
    for name, rule, part in groups:
        if len(part) >= FEWEST_PER_STRATUM:
            among = {arm: one[[s.patient_id for s in part]] for arm, one in scores.items()}
            found.append(Stratum(name, rule, compare_arms(among, baseline, margin=margin)))
    return found


def _spent(arm: Arm, ablation: Ablation) -> dict[str, float]:
    trials = sorted(ablation.trials.get(arm.name, ()), key=lambda run: run.start_time)
    # One that failed and was tried again is one trial; one that never finished is none.
    finished = {run.tags[VALUES]: run.metrics for run in trials if run.status == "FINISHED"}
    return {
        "runs": len(arm.runs),
        "images": arm.cost("cost/images"),
        "train_seconds": arm.cost("cost/train_seconds"),
        "trials": len(finished),
        "trial_images": sum(m.get("cost/images", 0.0) for m in finished.values()),
        "trial_seconds": sum(m.get("cost/train_seconds", 0.0) for m in finished.values()),
    }
