"""What the report says, section by section."""

from __future__ import annotations

from collections.abc import Sequence

from seglab.evaluation.comparison import ArmRow
from seglab.studies.comparison import NOT_RANKED, ComparedAblation
from seglab.studies.report import tables
from seglab.studies.report.document import (
    Block,
    Bullets,
    Document,
    Notice,
    Picture,
    Section,
    Text,
)
from seglab.studies.results import Ablation
from seglab.tracking import RunInfo

METHOD = (
    "Every arm is trained on the same patients with the same seeds and judged on the same "
    "validation patients. Seeds are averaged within a patient, so that patients are the sample.",
    "One test gives p, the interval and the verdict. The difference is held against what other "
    "patients and, where arms have several seeds, other seeds would change it by. With one seed "
    "the verdict is about these runs, not about the methods.",
    "better, worse: p, corrected over the arms by Holm's method, is at most 0.05. The intervals "
    "have the confidence of Holm's last step, so that they leave 0 outside exactly there: 95 % "
    "where at most one arm is not called different, 1 - 0.05 / k for k such arms. equivalent: "
    "two one-sided tests place the difference within the margin. undecided: neither, with the "
    "number of patients that would decide if the figures held, or the word that seeds are too "
    "few for any.",
    "These are validation patients: checkpoints and tuned values may be chosen on them. The "
    "sealed test part is opened by a promotion and by nothing else.",
)


def build_document(result: ComparedAblation, pictures: Sequence[Picture]) -> Document:
    """Lay out the whole report.

    Args:
        result: the comparison.
        pictures: by the names ``forest``, ``patients``, ``pareto``, ``learning``, ``sheet``;
            those that are not there are left out.
    """
    by_name = {picture.name: picture for picture in pictures}

    def shown(*names: str) -> list[Block]:
        return [by_name[name] for name in names if name in by_name]

    several = bool(result.rows)
    tests = [tables.tests_table(result)] if several else []
    strata, tuning = tables.strata_table(result), tables.tuning_table(result)
    sections = [
        Section("Verdicts", [tables.verdict_table(result), *shown("forest"), *tests]),
        Section("Patients", shown("patients")),
        Section("Scores and spread", [tables.spread_table(result)]),
        Section(
            "Where arms win and lose",
            [*([strata] if strata else []), tables.extremes_table(result)] if several else [],
        ),
        Section("Cost", [tables.cost_table(result), *shown("pareto")]),
        Section("Tuning", [tuning] if tuning else []),
        Section("Learning curves", shown("learning")),
        Section("The same patients under every arm", shown("sheet")),
        Section("Runs", [tables.runs_table(result)]),
        Section("How to read this", [Bullets(METHOD)]),
    ]
    return Document(
        title=f"{result.ablation.experiment}: which arms differ",
        blocks=lead(result),
        sections=[section for section in sections if section.blocks],
        footer=footer(result.ablation),
    )


def lead(result: ComparedAblation) -> list[Block]:
    """What somebody learns who reads no further."""
    ablation, comparison = result.ablation, result.comparison
    seeds = sorted({seed for arm in ablation.arms for seed in arm.seeds})
    folds = {child.fold for arm in ablation.arms for child in arm.children}
    scope = (
        f"{len(ablation.arms)} arms × {len(seeds)} seeds"
        + (f" × {len(folds)} folds" if len(folds) > 1 else "")
        + f", {comparison.n_patients} patients"
        + (" out of fold" if len(folds) > 1 else " of the validation part")
        + f". Baseline: {comparison.baseline.arm}, Dice {comparison.baseline.mean:.3f}. "
        + kept_weights([child.run for arm in ablation.arms for child in arm.children])
    )
    blocks: list[Block] = [Text(scope)]
    refusal = result.budgets.refusal()
    if refusal:
        blocks.append(Notice(refusal))
    if result.rows:
        blocks.append(Bullets([sentence(result, row) for row in result.rows]))
    return blocks + [Notice(_sentence_case(warning)) for warning in result.warnings]


def kept_weights(runs: Sequence[RunInfo]) -> str:
    """Say which weights the figures are of; runs before the key kept those of the best epoch."""
    kept = {run.params.get("train.keep", "best") for run in runs}
    if kept == {"last"}:
        return "Judged are the weights of the last epoch."
    if kept == {"best"}:
        return (
            "Judged are the weights of the best epoch on these validation patients, which makes "
            "the figures optimistic."
        )
    return "Some runs are judged by their last epoch, some by their best: not comparable."


def sentence(result: ComparedAblation, row: ArmRow) -> str:
    """One arm's verdict in words."""
    base, verdict = result.comparison.baseline.arm, result.verdicts[row.arm]
    limits = tables.interval(row.ci_low, row.ci_high, signed=True)
    figures = f"{tables.number(row.diff, signed=True)} ({limits})"
    if verdict == NOT_RANKED:
        return f"{row.arm} is not ranked against {base}: its budget was another. {figures}."
    if verdict == "equivalent":
        return f"{row.arm} is equivalent to {base} within ±{result.comparison.margin:g}: {figures}."
    if verdict == "undecided":
        enough = ""
        if row.needs_seeds:
            enough = "; more seeds would decide, no number of patients would"
        elif row.patients_needed is not None:
            enough = f"; about {row.patients_needed:,} patients would decide"
        return f"{row.arm} against {base} is undecided: {figures}{enough}."
    p = tables.p_value(row.p_holm)
    return f"{row.arm} is {verdict} than {base}: {figures}, corrected p {p}."


def footer(ablation: Ablation) -> str:
    """Where the figures come from."""
    tags = ablation.parent.tags
    known = [
        f"{label} {tags[key][:12]}"
        for key, label in (
            ("seglab.split_hash", "split"),
            ("seglab.data_hash", "data"),
            ("seglab.git_commit", "commit"),
        )
        if tags.get(key)
    ]
    return f"Parent run {ablation.parent.run_id}; " + ", ".join(known) + "."


def _sentence_case(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
