"""What the sections of the report show: plain values and tables for the template."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from seglab.augment.transform import Frame, Transform, in_share
from seglab.core.errors import UserError
from seglab.core.registry import AUGMENTATIONS, SOURCES
from seglab.data.identity import TITLES
from seglab.evaluation.comparison import ArmRow
from seglab.evaluation.scores import FEWEST_WITH_INTERVAL
from seglab.studies.candidates import DICE
from seglab.studies.comparison import NOT_RANKED, ComparedAblation, compare_ablation
from seglab.studies.report.record import Record, frozen_model
from seglab.studies.report.tables import (
    NONE,
    about,
    by_cause,
    difference,
    interval,
    number,
    p_value,
    short,
    verdict_table,
)
from seglab.studies.results import LOCAL_KEYS, collect
from seglab.tracking import tags
from seglab.tracking.openings import openings, seen_text
from seglab.tracking.store import RunInfo, Store

KINDS = {
    "train": "training",
    "tuning": "tuning",
    "trial": "search trial",
    "reproduction": "rerun",
    "promotion": "promotion",
    "evaluation": "evaluation",
}
EXTERNAL_FILE = "external_results.json"
EXTERNAL = ("iou", "lesions_found", "lesions_missed", "lesions_false")
FEWEST_FOR_IMPORTANCE = 30
"""Complete trials below which the importance of parameters is called a hint."""
TARGETS = {
    "whole": "the whole tumour: every labelled part",
    "core": "the tumour core: enhancing and non-enhancing, without oedema",
    "enhancing": "the enhancing tumour",
}


def lead(record: Record, result: ComparedAblation | None) -> list[str]:
    """The answers in a few sentences."""
    lines = [sentence(result, row) for row in result.rows] if result else []
    if (best := record.ranking) is not None:
        dice = f"{number(best.dice)}{' out of fold' * bool(best.out_of_fold)}"
        chance = f", the highest of {best.compared}, which is partly chance"
        lines.append(f"Best on validation: {best.name}, Dice {dice}{chance * bool(best.compared)}.")
    tested = record.promotion or not record.earlier_openings
    own = [test_sentence(record.promotion)] if tested else []
    return [*lines, *own, *map(external_sentence, record.evaluations)]


def sentence(result: ComparedAblation, row: ArmRow) -> str:
    """One arm's verdict in words."""
    base, verdict = result.baseline, result.verdicts[row.arm]
    figures = difference(row)
    if verdict == NOT_RANKED:
        return f"{row.arm} is not ranked against {base}: its budget was another. {figures}."
    if verdict == "equivalent":
        return f"{row.arm} is equivalent to {base} within ±{result.comparison.margin:g}: {figures}."
    if verdict == "undecided":
        return f"{row.arm} against {base} is undecided: {figures}{_needed(result, row)}."
    return f"{row.arm} is {verdict} than {base}: {figures}, corrected p {p_value(row.p_holm)}."


def _needed(result: ComparedAblation, row: ArmRow) -> str:
    """How many patients would find the difference or show equivalence, if any number would."""
    if result.comparison.n_patients < FEWEST_WITH_INTERVAL:
        return ""
    if row.needs_seeds:
        return "; more seeds may decide, more patients without more seeds would not"
    wanted = {"find it": row.patients_to_find, "call it equivalent": row.patients_to_equate}
    told = [f"{about(count)} to {what}" for what, count in wanted.items() if count]
    if told:
        return f"; patients it would take: about {' or '.join(told)}"
    return "; more seeds would help more than more patients" if row.seeds > 1 else ""


def test_sentence(run: RunInfo | None) -> str:
    """The result of the sealed test in one sentence."""
    if run is None:
        return "Not tested yet: only a promotion opens the sealed test, and none has finished."
    firm = "confirmatory" if run.tags.get(tags.CONFIRMATORY) == "true" else "not confirmatory"
    return f"Sealed test{_of_ensemble(run)}, {firm}: {_dice_of(run, 'test')}."


def _of_ensemble(run: RunInfo) -> str:
    """Name the ensemble that a promotion or an evaluation is of; empty where it is of one run."""
    members = run.tags.get(tags.ENSEMBLE, "")
    count = f" of {members.count(',') + 1} runs" if "," in members else ""  # files do not tell it
    return f" of an ensemble{count}" if members else ""


def rival(run: RunInfo) -> str:
    """What a promoted model was compared with on the test patients."""
    known = run.tags.get(tags.BASELINE_RUN, "")
    own = known == run.tags.get(tags.PROMOTED_RUN)
    return f"{'the best single run of the ensemble' if own else 'the baseline'} {known[:8]}".strip()


def test_answer(store: Store, run: RunInfo) -> str:
    """The result of a promotion's test, with the reason where it confirms nothing."""
    return " ".join(filter(None, (test_sentence(run), not_confirmatory(store, run))))


def not_confirmatory(store: Store, run: RunInfo) -> str:
    """Say by which earlier promotions the test of ``run`` confirms nothing; empty where it does."""
    if run.tags.get(tags.CONFIRMATORY) == "true":
        return ""
    found = openings(store)
    own = next((one for one in found if one.opened_by == run.run_id), None)
    told = ""
    if own is not None:
        told = seen_text(store, [one for one in found if one.opened_at <= own.opened_at], own)
    told = told or "patients of this test were tested before"
    return f"Not confirmatory: {told}. Choices may have been made with them in view."


def external_sentence(run: RunInfo) -> str:
    """The result of an evaluation on another data set in one sentence."""
    place = run.params.get("evaluation.set", "another data set")
    model = f",{of}" if (of := _of_ensemble(run)) else ""
    return f"On {place}, where nothing was tuned: {_dice_of(run, 'external')}{model}."


def external_rows(record: Record) -> list[tuple[str, ...]]:
    """Evaluations on other data sets, newest first, beside the same model's own test."""
    tested = {frozen_model(run): run for run in record.of_kind("promotion")[::-1]}
    rows = []
    for run in record.evaluations:
        model, promotion = run.tags.get(tags.EVALUATED_RUN, NONE), tested.get(frozen_model(run))
        own = _dice_of(promotion, "test") if promotion else NONE
        figures = [number(run.metrics.get(f"external/{name}")) for name in EXTERNAL]
        place = run.params.get("evaluation.set", NONE)
        more = " and others, an ensemble" if tags.ENSEMBLE in run.tags else ""
        rows.append((place, f"{model[:8]}{more}", _dice_of(run, "external"), *figures, own))
    return rows


def external_warnings(warnings: Sequence[str], count: int) -> list[str]:
    """What an evaluation warned of, each cause once with the number of its patients."""
    split = [text.partition(": ") for text in warnings]
    of_patients = [(who, text) for who, _, text in split if " " not in who]
    lines = [f"warning: {''.join(parts)}" for parts in split if " " in parts[0]]
    return [*lines, *by_cause(of_patients, count, EXTERNAL_FILE)]


def external_notes(record: Record) -> list[str]:
    """Of each other data set, what the evaluations there warned of."""
    lines = []
    for run in record.evaluations:
        if found := record.read_json(run, EXTERNAL_FILE):
            told = external_warnings(found["warnings"], found["patients"])
            lines += [f"{found['set']}: {text}" for text in told]
    return list(dict.fromkeys(lines))


def _dice_of(run: RunInfo, part: str) -> str:
    """Dice with its interval and the number of patients of one part."""
    low, high = (run.metrics.get(f"{part}/dice_ci_{end}") for end in ("low", "high"))
    limits, count = interval(low, high), run.metrics.get(f"{part}/patients") or 0
    few = limits == NONE or count < FEWEST_WITH_INTERVAL
    limits = "too few for an interval" if few else f"95 % interval {limits}"
    dice = number(run.metrics.get(f"{part}/dice"))
    return f"Dice {dice} over {_count(int(count), 'patient')} ({limits})"


def scope(result: ComparedAblation) -> str:
    """Say what was compared, and how."""
    arms = result.ablation.arms
    seeds = {seed for arm in arms for seed in arm.seeds}
    folds = {one.fold for arm in arms for one in arm.runs}
    plan, planned = result.ablation.plan, ""
    if plan is not None:
        count = len(result.deviations or ())
        how = f"with {_count(count, 'deviation')}" if count else "as planned"
        planned = f" Planned before the first run (plan {plan.hash[:12]}), done {how}."
    return (
        f"{_count(len(arms), 'arm')} × {_count(len(seeds), 'seed')}"
        + (f" × {len(folds)} folds" if len(folds) > 1 else "")
        + f", {_count(result.comparison.n_patients, 'patient')}"
        + (" out of fold" if len(folds) > 1 else " of the validation part")
        + f". Baseline: {result.baseline}, Dice {result.comparison.baseline.mean:.3f}. "
        + kept_weights([one.run for arm in arms for one in arm.runs])
        + planned
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def notices(result: ComparedAblation) -> list[str]:
    """What must be known before the verdicts."""
    refusal, count = result.budgets.refusal(), result.comparison.n_patients
    told = [*([refusal] if refusal else []), *result.warnings]
    if count < FEWEST_WITH_INTERVAL:
        told.append(
            f"{_count(count, 'patient')} cannot carry an interval, nor say how many more patients "
            "would decide: neither is shown"
        )
    return [f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" for text in told]


def verdict_text(result: ComparedAblation) -> str:
    """The verdicts for a terminal, after what must be known before them."""
    shown = result.as_shown()
    lines = [f"warning: {' '.join(text.split())}" for text in notices(shown)]
    return "\n".join([*lines, verdict_table(shown).to_string(index=False)])


def kept_weights(runs: Sequence[RunInfo]) -> str:
    """Say which weights the figures are of; runs before the key kept those of the best epoch."""
    kept = {run.params.get("train.keep", "best") for run in runs}
    if kept == {"last"}:
        may_stop = any(
            run.params.get("train.patience", "None") not in ("None", "null") for run in runs
        )
        stopped = ", of the best where train.patience stopped a run" if may_stop else ""
        return f"Judged are the weights of the last epoch{stopped}."
    if kept == {"best"}:
        return (
            "Judged are the weights of the best epoch on these validation patients, which makes "
            "the figures optimistic."
        )
    return "Some runs are judged by their last epoch, some by their best: not comparable."


def by_dice(runs: Sequence[RunInfo]) -> list[RunInfo]:
    """Order runs by their validation Dice, best first."""
    return sorted(runs, key=lambda run: -run.metrics.get(DICE, -math.inf))


def trials(record: Record, sweep: RunInfo) -> dict[str, Any]:
    """Trials of a search, best first, and the names of what it searched."""
    found = by_dice([run for run in record.of_kind("trial") if run.parent_run_id == sweep.run_id])
    states = {"complete": "finished", "pruned": "pruned", "failed": "failed"}
    counts = {word: sweep.metrics.get(f"search/{state}") for state, word in states.items()}
    told = ", ".join(f"{count:.0f} {key}" for key, count in counts.items() if count is not None)
    return {
        "runs": found,
        "best": next((r for r in found if r.status == "FINISHED" and DICE in r.metrics), None),
        "counts": told or f"{len(found)} begun",
        "names": list(json.loads(sweep.params.get("search.space", "{}"))),
    }


def shown_optimism(told: Mapping[str, Any]) -> float | None:
    """A confirmation's optimism: the difference of the gains as they are printed beside it."""
    if told.get("optimism") is None:
        return None
    return round(float(told["search_gain"]), 3) - round(float(told["confirmed_gain"]), 3)


def compare(store: Store, run_id: str) -> ComparedAblation | str:
    """Compare the arms of an ablation, or say why they cannot be."""
    try:
        return compare_ablation(collect(store, store.get_run(run_id)))
    except UserError as error:
        return str(error)


def figure(one: Mapping[str, Any] | None, spec: str = ".3f") -> str:
    """``0.812 (0.781 to 0.844)``, without limits over few patients; a dash where unknown."""
    if one is None or one["value"] is None:
        return NONE
    limits = interval(one["low"], one["high"], spec)
    few = limits == NONE or one["patients"] < FEWEST_WITH_INTERVAL
    value = number(one["value"], spec)
    return value if few else f"{value} ({limits})"


def tumour_sizes(test: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Dice by tumour size, in ml where it is known; a dash over few, no row if all are few."""
    rows: list[tuple[str, ...]] = []
    for one in test["strata"]:
        low, high = one.get("smallest_ml"), one.get("largest_ml")  # older tests have none
        size = f"{number(low, '.1f')} to {number(high, '.1f')} ml"
        if low is None or high is None:
            size = f"{one['smallest']:,.0f} to {one['largest']:,.0f} px"
        count = one["dice"]["patients"]
        dice = figure(one["dice"]) if count >= FEWEST_WITH_INTERVAL else NONE
        rows.append((one["name"], size, str(count), dice))
    return rows if any(row[-1] != NONE for row in rows) else []


def data(record: Record, run: RunInfo) -> dict[str, str]:
    """Which patients, prepared how."""
    facts: dict[str, str] = {}
    for found in record.store.data_inputs(run.run_id)[:1]:
        facts["data set"] = found["source"] or found["name"]
        facts |= {
            key: f"{count:,}" for key, count in found["profile"].items() if type(count) is int
        }
    source, target = (run.params.get(f"data.{key}", "") for key in ("source", "target"))
    if source in SOURCES:
        summary = SOURCES[source].summary
        facts["file layout"] = (
            f"synthetic, in the layout of: {summary}" if record.notice else summary
        )
    facts["modalities"] = ", ".join(modalities(run))
    facts["target"] = TARGETS.get(target or "whole", target)
    return facts | {"content hash": run.tags.get(tags.DATA_HASH, "")}


def modalities(run: RunInfo) -> list[str]:
    """Names of the inputs; runs of earlier versions had FLAIR only."""
    try:
        names = json.loads(run.params["data.modalities"])
    except (KeyError, ValueError):
        names = ["flair"]
    return [TITLES.get(name, name) for name in names]


def arm_settings(result: ComparedAblation) -> dict[str, dict[str, str]]:
    """What each arm sets otherwise than the baseline, and the baseline's own values of that."""
    arms = {arm.name: arm.runs[0].run.params for arm in result.ablation.arms}
    base = arms[result.baseline]
    same = {"arm", "name", "seed", "split.fold", "train.device", "train.threads", *LOCAL_KEYS}
    keys = {k for own in arms.values() for k in {*own, *base} - same if own.get(k) != base.get(k)}
    return {
        name: {
            k: short(v) for k, v in own.items() if k in keys and (own is base or v != base.get(k))
        }
        for name, own in arms.items()
    }


def used(record: Record, key: str) -> set[str]:
    """The values that training runs and trials have of a key."""
    return {run.params[key] for run in record.of_kind("train", "trial") if key in run.params}


def options(run: RunInfo, block: str) -> defaultdict[str, str]:
    """What a block of the run's config sets; any other option is empty."""
    logged = _block(run, block).items()
    given = {key: short(value) for key, value in logged if value not in ("null", "None")}
    return defaultdict(str, given)


def _block(run: RunInfo, block: str) -> dict[str, str]:
    start = f"{block}."
    return {k.removeprefix(start): v for k, v in run.params.items() if k.startswith(start)}


def augmentation(run: RunInfo) -> str:
    """How far each random change of a training slice goes, and how many slices get it."""
    given = _block(run, "augment")
    frame = Frame((64, 64), 1.0, None if run.params.get("data.plane") == "sagittal" else 1)
    try:
        pipeline = AUGMENTATIONS.build(given.pop("name", "none"), given, frame)
    except (UserError, ValueError):  # a run of an earlier version
        return ""
    changes = [one for one in pipeline if isinstance(one, Transform)]
    limits = "; ".join(in_share(one.limits, one.p) for one in changes)
    return limits.replace(" %", "\N{NO-BREAK SPACE}%")


def several(record: Record, tag: str, like: RunInfo | None = None) -> str:
    """List the values where the runs, of the inputs of ``like``, do not share one of ``tag``."""
    inputs = ("data.modalities", "data.target")
    found = Counter(
        run.tags[tag]
        for run in record.of_kind("train", "trial")
        if run.tags.get(tag)
        and (like is None or all(run.params.get(k) == like.params.get(k) for k in inputs))
    )
    listed = [f"{value[:12]} ({count} runs)" for value, count in found.most_common()]
    return ", ".join(listed) if len(found) > 1 else ""


def code(record: Record) -> list[tuple[str, ...]]:
    """Commit, code hash, device and precision of the runs, with how many share them."""
    keys = (tags.GIT_COMMIT, tags.CODE_HASH, tags.DEVICE, tags.PRECISION)
    found = Counter(
        tuple(run.tags.get(key, NONE) for key in keys) for run in record.of_kind(*KINDS)
    )
    return [(*values, str(count)) for values, count in found.most_common()]
