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
from seglab.studies.report.outcomes import external_sentence, test_sentence
from seglab.studies.report.record import Record
from seglab.studies.report.tables import (
    NONE,
    about,
    counted,
    difference,
    interval,
    number,
    p_value,
    short,
    verdict_table,
)
from seglab.studies.results import LOCAL_KEYS, collect, data_settings
from seglab.tracking import tags
from seglab.tracking.store import RunInfo, Store

KINDS = {
    "train": "training",
    "tuning": "tuning",
    "trial": "search trial",
    "reproduction": "rerun",
    "promotion": "promotion",
    "evaluation": "evaluation",
}
FEWEST_FOR_IMPORTANCE = 30
"""Complete trials below which the importance of parameters is called a hint."""
TARGETS = {
    "whole": "the whole tumour: every labelled part",
    "core": "the tumour core: enhancing and non-enhancing, without oedema",
    "enhancing": "the enhancing tumour",
}


def lead(record: Record, result: ComparedAblation | None, *, shows_test: bool = False) -> list[str]:
    """The answers in a few sentences; without the test's where it is shown in figures."""
    lines = [sentence(result, row) for row in result.rows] if result else []
    lines += [search_sentence(record)] if record.sweep else []
    if (best := record.ranking) is not None:
        dice = f"{number(best.dice)}{' out of fold' * bool(best.out_of_fold)}"
        chance = f", the highest of {best.compared}, which is partly chance"
        lines.append(f"Best on validation: {best.name}, Dice {dice}{chance * bool(best.compared)}.")
    tested = not shows_test and (record.promotion or not record.earlier_openings)
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


def scope(result: ComparedAblation) -> str:
    """Say what was compared, and how."""
    arms = result.ablation.arms
    seeds = {seed for arm in arms for seed in arm.seeds}
    folds = {one.fold for arm in arms for one in arm.runs}
    plan, planned = result.ablation.plan, ""
    if plan is not None:
        count = len(result.deviations or ())
        how = f"with {counted(count, 'deviation')}" if count else "as planned"
        planned = f" Planned before the first run (plan {plan.hash[:12]}), done {how}."
    return (
        f"{counted(len(arms), 'arm')} × {counted(len(seeds), 'seed')}"
        + (f" × {len(folds)} folds" if len(folds) > 1 else "")
        + f", {counted(result.comparison.n_patients, 'patient')}"
        + (" out of fold" if len(folds) > 1 else " of the validation part")
        + f". Baseline: {result.baseline}, Dice {result.comparison.baseline.mean:.3f}. "
        + kept_weights([one.run for arm in arms for one in arm.runs])
        + planned
    )


def notices(result: ComparedAblation) -> list[str]:
    """What must be known before the verdicts."""
    refusal, count = result.budgets.refusal(), result.comparison.n_patients
    told = [*([refusal] if refusal else []), *result.warnings]
    if count < FEWEST_WITH_INTERVAL:
        told.append(
            f"{counted(count, 'patient')} cannot carry an interval, nor say how many more patients "
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


def search_sentence(record: Record) -> str:
    """How the trials of the search ended, and whether one was better than the base config."""
    assert record.sweep is not None
    found = trials(record, record.sweep)
    told = f"Trials of the search: {found['counts']}"
    if best := found["best"]:
        is_base = best.tags.get(tags.TRIAL) == tags.BASE_TRIAL
        more = ": it is the base config, and no other was better" if is_base else ""
        told += f"; the best has a validation Dice of {best.metrics[DICE]:.3f}{more}"
    return f"{told}."


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
    if found := record.data_set(run):
        facts["data set"] = found["source"] or found["name"]
        facts |= {
            key: f"{count:,}" for key, count in found["profile"].items() if type(count) is int
        }
        facts["patients left out"] = "; ".join(found["profile"].get("left_out", ()))
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
    """List the values where the runs, of the data settings of ``like``, do not share a tag's."""
    settings = data_settings(like) if like else None
    found = Counter(
        run.tags[tag]
        for run in record.of_kind("train", "trial")
        if run.tags.get(tag) and (settings is None or data_settings(run) == settings)
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
