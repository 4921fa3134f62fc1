"""What made a search's best trial better than its base config: each change by itself.

The base config is given each change of the best trial, and the best trial each value of the base
back, one at a time, over fresh seeds and on patients that had no part in the choice. Then the
changes are added to the base in the order of what they brought.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from seglab.core.documents import merge, nested, parse_overrides, parse_yaml
from seglab.core.errors import UserError, as_warning
from seglab.core.study import Study, resolve_study
from seglab.evaluation.comparison import LEVEL, ArmRow
from seglab.figures.comparison import forest
from seglab.figures.style import marked
from seglab.studies.ablation import run_study
from seglab.studies.candidates import DICE
from seglab.studies.comparison import ComparedAblation, compare_ablation
from seglab.studies.resolve import open_trained_data, read_config, refuse_unfinished
from seglab.studies.results import collect, find_parent
from seglab.studies.search.confirm import BASE_ARM, NO_PATIENTS, retrained
from seglab.studies.search.results import write_experiment
from seglab.studies.search.space import Params, Space
from seglab.tracking import tags
from seglab.tracking.artifacts import read_artifact
from seglab.tracking.run import resume_run
from seglab.tracking.store import RunInfo, Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINNER = "best"
FILE, LADDER = "explanation.json", "search/ladder.png"
RULES = {
    "equivalent": "the smallest set shown to be within the margin of the best trial",
    "one standard error": "the smallest set within one standard error of the best trial; the "
    "patients cannot show more",
    "all": "no smaller set is within the margin or one standard error of the best trial",
}
UNDECIDED = "undecided"
"""In place of a rule: the patients cannot tell the base config from the best trial."""


@dataclass(frozen=True)
class Changes:
    """The points between the base config and the best trial of a search."""

    space: Space
    base: Params
    best: Params

    @property
    def keys(self) -> list[str]:
        """Parameters in which both differ; one that a choice brings with it comes with it."""
        return [key for key in self.base if key in self.best and self.base[key] != self.best[key]]

    def arm(self, taken: Collection[str]) -> str:
        """Name of the base config with some of the changes."""
        left = [key for key in self.keys if key not in taken]
        if not left or not taken:
            return BASE_ARM if left else WINNER
        if len(left) == 1 and len(taken) > 1:
            return f"{WINNER} without {left[0]}"
        return f"{BASE_ARM} with {' '.join(key for key in self.keys if key in taken)}"

    def params(self, taken: Collection[str]) -> Params:
        """The base config with some of the changes, as a point of the space."""
        return self.space.mixed(self.base, self.best, taken)

    @property
    def singly(self) -> list[frozenset[str]]:
        """Nothing, each change, all but each, and everything."""
        every = frozenset(self.keys)
        sets = [frozenset(), *({key} for key in self.keys), *(every - {key} for key in self.keys)]
        return list(dict.fromkeys(map(frozenset, [*sets, every])))

    def ordered(self, result: ComparedAblation) -> list[str]:
        """The changes by what they brought on average, given to the base and kept in the best."""
        means = {row.arm: row.mean for row in result.summaries}
        every = {*self.keys}

        def gain(key: str) -> float:
            pairs = [({key}, set()), (every, every - {key})]
            gains = [
                means[self.arm(more)] - means[self.arm(less)]
                for more, less in pairs
                if {self.arm(more), self.arm(less)} <= means.keys()
            ]
            return sum(gains) / max(len(gains), 1)

        return sorted(self.keys, key=gain, reverse=True)


def explain(
    store: Store, name: str, overrides: Sequence[str] = (), *, workers: int = 1
) -> dict[str, Any]:
    """Train what lies between the base config and the best trial, and say what is needed.

    Writes the smallest set of changes, if there is one, as a runnable YAML; logs it with the
    sweep's run, as ``explanation.json`` and a picture. Returns the keys of ``explain --json``.

    Raises:
        UserError: no finished search, one trial, nothing to explain, or no patients to do it on.
    """
    sweep = find_parent(store, name, "sweep")
    refuse_unfinished(sweep)
    study = _read_search(store, sweep, overrides)
    if study.run.split.folds:
        raise UserError(f"search '{study.name}': {NO_PATIENTS}")
    best = _best_trial(store, sweep)
    config, space = read_config(store, best, overrides), Space.of(study)
    points = replace(space, base=config).base_params
    changes = Changes(space, space.base_params, points)
    if not changes.keys:
        raise UserError(
            f"search '{study.name}' found nothing better than its base config: nothing to explain"
        )
    open_trained_data(best, config)
    singly = changes.singly
    result = _train(study, changes, singly, store, workers)
    order = changes.ordered(result)
    rungs = [frozenset(order[:count]) for count in range(len(order) + 1)]
    sets = list(dict.fromkeys([*singly, *rungs]))
    if len(sets) > len(singly):
        result = _train(study, changes, sets, store, workers)
    told = _tell(changes, order, rungs, sets, result)
    told |= {"experiment": study.name, "trial": best.tags.get(tags.ARM, best.name)}
    told |= {"config": None, "text": text_of(told)}
    path = store.folder / "searches" / f"{study.name}.explained.yaml"
    with resume_run(store, sweep.run_id) as log:
        if told["rule"] == UNDECIDED:
            path.unlink(missing_ok=True)
        else:
            needed, title = changes.params(told["needed"]), f"{study.name[:80]} explained"
            about = f"Of search '{study.name}': {told['text']}"
            write_experiment(path, space.build(needed), title, about)
            log.text(path.read_text(encoding="utf-8"), "explained.yaml")
            told["config"] = str(path)
        log.json(told, FILE)
        log.tags({tags.EXPLANATION_RUN: result.ablation.parent.run_id})
        with as_warning("no ladder is drawn"):
            log.figure(marked(_ladder(changes, rungs, result), result.ablation.notice), LADDER)
        log.finish(only_looked=True)
    return told


def _read_search(store: Store, sweep: RunInfo, overrides: Sequence[str]) -> Study:
    text = read_artifact(store, sweep, "sweep.yaml").decode()
    document = parse_yaml(text, f"sweep.yaml of run {sweep.run_id}")
    # The logged address has no password.
    return resolve_study(
        merge(merge(document, {"search": {"storage": None}}), parse_overrides(overrides))
    )


def _best_trial(store: Store, sweep: RunInfo) -> RunInfo:
    wanted = {tags.KIND: "trial"}
    runs = store.find_runs(None, wanted, ["FINISHED"], parent_run_id=sweep.run_id)
    scored = [run for run in runs if DICE in run.metrics]
    if len(scored) < 2:
        raise UserError(f"'{sweep.name}' has {len(scored)} finished trial: nothing was chosen")
    return max(scored, key=lambda run: (run.metrics[DICE], -int(run.tags[tags.TRIAL])))


def _train(
    study: Study, changes: Changes, sets: Sequence[Collection[str]], store: Store, workers: int
) -> ComparedAblation:
    """Train the arms that are not trained yet, and compare all with the best trial."""
    arms = {changes.arm(taken): nested(changes.params(taken).items()) for taken in sets}
    ablation = retrained(study, "-explained", arms, WINNER)
    outcome = run_study(ablation, store, workers=workers)
    return compare_ablation(collect(store, store.get_run(str(outcome.parent_run_id))), WINNER)


def _tell(
    changes: Changes,
    order: Sequence[str],
    rungs: Sequence[frozenset[str]],
    sets: Sequence[frozenset[str]],
    result: ComparedAblation,
) -> dict[str, Any]:
    against_best = {row.arm: row for row in result.comparison.rows}
    against_base, confidence = {}, {"put_back": result.comparison.confidence}
    if BASE_ARM in {arm.name for arm in result.ablation.arms}:  # else each of its runs failed
        to_base = compare_ablation(result.ablation, BASE_ARM).comparison
        against_base = {row.arm: row for row in to_base.rows}
        confidence["given"] = to_base.confidence
    every = frozenset(changes.keys)
    rule, chosen = choose(
        {taken: against_best[arm] for taken in sets if (arm := changes.arm(taken)) in against_best},
        every,
    )
    means = {row.arm: row.mean for row in result.summaries}
    return {
        "parent_run_id": result.ablation.parent.run_id,
        "validation_patients": list(result.comparison.patients),
        "margin": result.comparison.margin,
        "confidence": confidence,
        "changes": [
            {
                "key": key,
                "base": changes.base[key],
                "best": changes.best[key],
                "given": _figures(against_base.get(changes.arm({key}))),
                "put_back": _figures(against_best.get(changes.arm(every - {key}))),
            }
            for key in order
        ],
        "ladder": [
            {
                "changes": [key for key in order if key in taken],
                "dice": means.get(changes.arm(taken)),
                **_figures(against_best.get(changes.arm(taken))),
            }
            for taken in rungs
        ],
        "rule": rule,
        "needed": [key for key in order if key in chosen],
        "dropped": [key for key in order if key not in chosen and rule != UNDECIDED],
    }


def choose(
    rows: Mapping[frozenset[str], ArmRow], every: frozenset[str]
) -> tuple[str, frozenset[str]]:
    """Choose the smallest set of changes that does as well as every one, and say by which rule.

    ``rows`` compare sets of changes with all of them; higher differences are better. No change at
    all is the answer only where it is shown to be equivalent.
    """
    # A set that no test can tell from all of them by one standard error fails the test of
    # equivalence only where the patients are too few for it.
    rules: dict[str, Callable[[ArmRow], bool]] = {
        "equivalent": lambda row: row.p_equivalence <= LEVEL or row.verdict == "better",
        "one standard error": lambda row: row.diff >= -row.error,
    }
    for rule, holds in rules.items():
        if found := [taken for taken, row in rows.items() if holds(row)]:
            fewest = min(found, key=lambda taken: (len(taken), -rows[taken].diff))
            return rule if fewest or rule == "equivalent" else UNDECIDED, fewest
    return "all", every


def _figures(row: ArmRow | None) -> dict[str, Any]:
    keys = ("diff", "ci_low", "ci_high", "p_holm", "p_equivalence")
    return {key: getattr(row, key, None) for key in keys}


def _ladder(changes: Changes, rungs: Sequence[frozenset[str]], result: ComparedAblation) -> Figure:
    """Draw each rung's difference to the best trial."""
    by_arm, rows, below = {row.arm: row for row in result.as_shown().rows}, [], frozenset[str]()
    for taken in rungs[:-1]:
        label = f"+ {min(taken - below)}" if taken else BASE_ARM
        if row := by_arm.get(changes.arm(taken)):
            rows.append(replace(row, arm=label))
        below = taken
    verdicts = {row.arm: row.verdict for row in rows}
    comparison = result.comparison
    return forest(rows, verdicts, "the best trial", comparison.margin, comparison.confidence)


def text_of(told: Mapping[str, Any]) -> str:
    """What was found, in words."""
    needed, dropped = told["needed"], told["dropped"]
    count = len(told["validation_patients"])
    differs = (
        f"{told['trial']} differs from the base config in "
        f"{', '.join(one['key'] for one in told['changes'])}. "
    )
    if told["rule"] == UNDECIDED:
        return (
            f"{differs}The {count} patients who had no part in the choice cannot tell it from the "
            "base config: which of the changes are needed is not known."
        )
    return (
        f"{differs}Needed: {', '.join(needed) or 'nothing'}; not needed: "
        f"{', '.join(dropped) or 'nothing'} ({RULES[told['rule']]}; {count} patients who had no "
        "part in the choice)."
    )
