"""What made the best trial better, where the answer is known in advance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from seglab.core.config import RunConfig, flatten
from seglab.core.errors import UserError
from seglab.core.study import Study, load_study, resolve_study
from seglab.data.open import open_data
from seglab.evaluation.metrics import PatientScore
from seglab.studies.experiment import Plan
from seglab.studies.search.explain import UNDECIDED, Changes, choose, explain
from seglab.studies.search.run import run_search
from seglab.studies.search.space import Space
from seglab.tracking import tags
from seglab.tracking.store import Store
from tests.studies.logged_ablation import patient
from tests.verdicts.searches import _normal, trained_by

SPACE = {
    "loss.name": ["bce_dice", "dice"],
    "augment.name": ["default", "mirror"],
    "optim.weight_decay": [0.01, 0.1],
    "optim.name": ["adamw", "adam"],
}
MATTER = {"loss.name": ("dice", 0.4), "augment.name": ("mirror", 0.3)}
BY_CHANCE = {"optim.weight_decay": (0.1, 0.2), "optim.name": ("adam", 0.2)}
"""What the best value adds to the logit: to that of every patient, and of the search's only."""


def response(config: RunConfig, names: tuple[str, ...], salt: str) -> Iterator[PatientScore]:
    values, run = flatten(config.to_dict()), f"{salt} {config.hash()}"
    adds = MATTER | ({} if config.split.redraw else BY_CHANCE)
    gain = sum(add for key, (best, add) in adds.items() if values[key] == best)
    gain += 0.01 * _normal(run)
    for name in names:
        logit = 1.5 + 0.8 * _normal("difficulty", name) + gain + 0.08 * _normal(run, name)
        yield replace(patient(1, float(1 / (1 + np.exp(-logit)))), patient_id=name)


def search(
    study: Study,
    store: Store,
    number: int,
    loss: str = "bce_dice",
    failing: str = "",
    **block: Any,
) -> Mapping[str, Any]:
    """Search the whole grid and explain its best trial; the runs of the arm ``failing`` fail."""
    space = {key: {"choices": choices} for key, choices in SPACE.items()}
    own = {
        "trials": 16,
        "sampler": "grid",
        "space": space,
        "pruner": "none",
        "confirm": {"top": 0, "seeds": [100, 101]},
    }
    document = dict(study.document) | {"name": f"explained {number}", "search": own | block}
    document["loss"] = loss

    def scores(plan: Plan, names: tuple[str, ...]) -> Iterator[PatientScore]:
        if plan.arm == failing:
            raise UserError("it fails")
        return response(plan.config, names, f"{number}")

    with trained_by(scores):
        run_search(resolve_study(document), store)
        return explain(store, f"explained {number}")


@pytest.mark.slow
def test_two_of_four_changes_are_named_and_the_yaml_drops_the_others(
    study: Study, store: Store
) -> None:
    told = search(study, store, 0)
    assert (told["needed"], told["rule"]) == ([*MATTER], "equivalent")
    assert {*told["dropped"]} == {*BY_CHANCE}
    values = flatten(load_study(Path(told["config"])).run.to_dict())
    assert {key: values[key] for key in SPACE} == {
        "loss.name": "dice",
        "augment.name": "mirror",
        "optim.weight_decay": 0.01,
        "optim.name": "adamw",
    }
    split = open_data(study.run).split
    assert {*told["validation_patients"]} <= {*split.train}
    loss, *_ = told["changes"]
    assert loss["given"]["ci_low"] > 0 > loss["put_back"]["ci_high"]
    assert [len(rung["changes"]) for rung in told["ladder"]] == [0, 1, 2, 3, 4]
    assert told["ladder"][0]["diff"] < told["ladder"][1]["diff"] < -0.01
    (sweep,) = store.find_runs("explained 0", {"seglab.kind": "sweep"})
    assert sweep.tags["seglab.explanation_run_id"] == told["parent_run_id"]
    children = store.find_runs(parent_run_id=told["parent_run_id"])
    assert len(children) == 2 * 11
    assert {run.params["split.redraw"] for run in children} == {"1"}


@pytest.mark.slow
def test_the_two_are_named_in_nine_of_ten_searches(study: Study, store: Store) -> None:
    found = [search(study, store, number) for number in range(1, 11)]
    assert sum({*told["needed"]} == {*MATTER} for told in found) >= 9


@pytest.mark.parametrize(
    ("number", "loss", "block", "said"),
    [
        (21, "dice", {"trials": 1}, "has 1 finished trial: nothing was chosen"),
        (
            22,
            "dice",
            {"space": {"loss.name": {"choices": SPACE["loss.name"]}}},
            "nothing better than",
        ),
    ],
)
def test_nothing_to_explain_is_told(
    study: Study, store: Store, number: int, loss: str, block: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        search(study, store, number, loss, **block)


def test_a_base_that_failed_is_left_out_and_what_cannot_be_judged_is_refused(
    study: Study, store: Store
) -> None:
    two = {key: {"choices": SPACE[key]} for key in MATTER}
    told = search(study, store, 23, failing="base", space=two, trials=4)
    assert [one["given"]["diff"] for one in told["changes"]] == [None, None]
    assert all(one["put_back"]["diff"] < 0 for one in told["changes"])
    (sweep,) = store.find_runs("explained 23", {tags.KIND: "sweep"})
    trials = store.find_runs(parent_run_id=sweep.run_id)
    for run in trials:
        store.client.set_tag(run.run_id, tags.DATA_HASH, "another")
    with pytest.raises(UserError, match="was trained on other data"):
        explain(store, "explained 23")
    store.client.set_terminated(sweep.run_id, "FAILED")
    with pytest.raises(UserError, match=f"run {sweep.run_id} .* is FAILED, not FINISHED"):
        explain(store, "explained 23")
    assert store.get_run(sweep.run_id).status == "FAILED"


def test_patients_who_cannot_tell_the_base_from_the_best_mark_nothing(
    study: Study, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlike = SimpleNamespace(p_equivalence=0.6, verdict="undecided", diff=-0.08, error=0.2)
    alike = SimpleNamespace(p_equivalence=0.01, verdict="equivalent", diff=0.0, error=0.01)
    none, every = frozenset[str](), frozenset({"optim.lr"})
    assert choose({none: unlike, every: unlike}, every) == (UNDECIDED, none)  # type: ignore[dict-item]
    assert choose({none: alike}, every) == ("equivalent", none)  # type: ignore[dict-item]
    monkeypatch.setattr("seglab.studies.search.explain.choose", lambda *_: (UNDECIDED, none))
    two = {key: {"choices": SPACE[key]} for key in MATTER}
    told = search(study, store, 24, space=two, trials=4)
    assert (told["needed"], told["dropped"], told["config"]) == ([], [], None)
    assert "cannot tell it from the base config" in told["text"]
    assert not (store.folder / "searches" / "explained 24.explained.yaml").exists()


def test_a_parameter_that_a_choice_brings_comes_with_it() -> None:
    document = yaml.safe_load(
        """
        data: {source: brats-h5, root: somewhere}
        name: conditional
        search:
          space:
            loss.name: {choices: [bce_dice, tversky]}
            loss.alpha: {low: 0.3, high: 0.8, when: {loss.name: tversky}}
            optim.lr: {low: 0.001, high: 0.01}
        """
    )
    space = Space.of(resolve_study(document))
    best = {"loss.name": "tversky", "loss.alpha": 0.7, "optim.lr": 0.004}
    changes = Changes(space, space.base_params, best)
    assert changes.keys == ["loss.name", "optim.lr"]
    assert changes.params({"loss.name"}) == {**best, "optim.lr": 0.002}
    assert changes.params({"optim.lr"}) == {"loss.name": "bce_dice", "optim.lr": 0.004}
    back = Changes(space, best, space.base_params)
    assert back.params({"loss.name"}) == {"loss.name": "bce_dice", "optim.lr": 0.004}
    assert [changes.arm(one) for one in changes.singly] == [
        "base", "base with loss.name", "base with optim.lr", "best"
    ]  # fmt: skip
