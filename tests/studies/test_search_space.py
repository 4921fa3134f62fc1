"""The search space: what it refuses before anything runs, and the configs it makes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seglab.core.errors import UserError
from seglab.core.search import Range, Value
from seglab.core.study import Study, resolve_study
from seglab.studies.search.space import Space, grid_values, make_space

BASE = {
    "name": "s",
    "data": {"source": "brats-h5", "root": "nowhere"},
    "model": {"name": "unet", "base_channels": 16},
    "loss": {"name": "bce_dice"},
}
LR = {"low": 1e-4, "high": 1e-1, "log": True}
NETWORKS = {"model.name": {"choices": ["unet", "smp-unet"]}}
CHANNELS = {"low": 4, "high": 32, "integer": True, "when": {"model.name": "unet"}}
NESTED = {
    "optim.lr": LR,
    "model.encoder": {"choices": ["resnet18", "resnet34"], "when": {"model.name": "smp-unet"}},
    **NETWORKS,
    "model.base_channels": CHANNELS,
}
CHOSEN = {"model.base_channels": "unet", "model.encoder": "smp-unet"}


def when(choice: str, key: str, value: str) -> dict[str, Any]:
    return {"choices": [choice], "when": {key: value}}


def study(space: dict[str, Any], **search: Any) -> Study:
    return resolve_study({**BASE, "search": {"space": space, **search}})


def space_of(domains: dict[str, Any]) -> Space:
    return make_space(study(domains))


def test_the_base_config_is_a_point_that_builds_itself() -> None:
    space = space_of(NESTED)
    assert space.base_params == {"optim.lr": 2e-3, "model.name": "unet", "model.base_channels": 16}
    assert space.build(space.base_params).hash() == space.base.hash()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_is_suggested_makes_a_config_with_those_values(data: st.DataObject) -> None:
    space = space_of(NESTED)

    def ask(key: str, domain: Range) -> Value:
        if domain.choices is not None:
            return data.draw(st.sampled_from(domain.choices))
        assert domain.low is not None
        assert domain.high is not None
        if domain.integer:
            return data.draw(st.integers(int(domain.low), int(domain.high)))
        return data.draw(st.floats(domain.low, domain.high))

    params = space.suggest(ask)
    config = space.build(params)
    options = {f"model.{name}" for name in config.model.options}
    for key in ("model.base_channels", "model.encoder"):  # a choice drops those of the others
        assert (key in params) == (key in options) == (params["model.name"] == CHOSEN[key])
    assert config.optim.lr == params["optim.lr"]
    for key in params.keys() - {"optim.lr", "model.name"}:
        assert config.model.options[key.removeprefix("model.")] == params[key]


def test_a_grid_has_every_point_once_and_the_base_first() -> None:
    channels = {**CHANNELS, "low": 8, "high": 24, "step": 8}
    nested = {"optim.lr": {"choices": [1e-3, 2e-3]}, "model.base_channels": channels}
    points = list(space_of({**NESTED, **nested}).grid)
    assert points[0] == {"optim.lr": 2e-3, "model.name": "unet", "model.base_channels": 16}
    assert len(points) == 2 * (3 + 2)
    assert len({str(sorted(point.items())) for point in points}) == len(points)


def test_a_pruner_may_be_given_by_its_bare_name() -> None:
    named = study({"optim.lr": LR}, pruner="median").search
    assert named == study({"optim.lr": LR}, pruner={"name": "median"}).search


def test_a_stepped_range_ends_at_or_below_high() -> None:
    assert grid_values("k", Range(low=0, high=1, step=0.3)) == pytest.approx([0, 0.3, 0.6, 0.9])
    assert grid_values("k", Range(low=0.1, high=0.3, step=0.1)) == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(UserError, match="needs choices, or a step"):
        grid_values("k", Range(low=0, high=1))


def test_a_list_of_modalities_is_one_choice() -> None:
    choices = [["flair"], ["flair", "t1ce"], "t1ce"]
    space = space_of({"data.modalities": {"choices": choices}})
    assert space.base_params == {"data.modalities": "flair"}
    built = [space.build(params).data.modalities for params in space.grid]
    assert built == [("flair",), ("flair", "t1ce"), ("t1ce",)]


@pytest.mark.parametrize(
    ("domains", "told"),
    [
        ({"data.target": {"choices": ["whole", "core"]}}, "scored against another truth"),
        ({"data.modalities": {"choices": ["flair", ["t1", "t3"]]}}, "t1.t3.*'t3' is not allowed"),
        ({"optim.learning_rate": LR}, "unknown key 'optim.learning_rate'"),
        ({"loss.name": {"choices": []}}, "choices is empty"),
        ({"optim.lr": {"low": 1, "high": 0.1}}, "low 1 is above high 0.1"),
        ({"optim.lr": {"low": 0, "high": 0.1, "log": True}}, "must start above 0"),
        ({"optim.lr": {"low": 0.1}}, "give choices, or low and high"),
        ({"optim.lr": {"low": 1e-5, "high": 1e-3}}, "the base config, which is trial 0, has 0.002"),
        ({"loss.name": {"choices": ["dice"]}}, "outside the choices"),
        ({"loss.name": {"choices": ["bce_dice", "dcie"]}}, "loss.name=dcie.*did you mean"),
        ({"model.base_channels": {"low": 4, "high": 32}}, "model.base_channels="),
        ({"train.batch_size": {"low": 8, "high": 32, "step": 5, "integer": True}}, "steps of 5"),
        ({"train.batch_size": {"low": 8, "high": 8.5, "integer": True}}, "whole low"),
        ({"seed": {"choices": [0, 1]}}, "not a matter of search"),
        ({"split.seed": {"choices": [0, 1]}}, "not a matter of search"),
        ({"data.root": {"choices": ["a", "b"]}}, "not a matter of search"),
        ({"train.threads": {"choices": [1, 2]}}, "not a matter of search"),
        ({"optim.lr": {**LR, "when": {"optim.lr": 1}}}, "go round in a circle: optim.lr"),
        ({"optim.lr": {**LR, "when": {"loss.name": "dice"}}}, "only searched keys can be named"),
        ({**NETWORKS, "model.encoder": when("resnet18", "model.name", "smp-fpn")}, "'smp-fpn'"),
        (
            {
                "optim.name": when("adamw", "loss.name", "bce_dice"),
                "loss.name": when("bce_dice", "optim.name", "adamw"),
            },
            "in a circle",
        ),
        (
            {**NETWORKS, "model.base_channels": {"choices": [8, 16]}},
            r"model\.name=smp-unet beside .*base_channels",
        ),
    ],
)
def test_a_space_that_cannot_be_is_refused(domains: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as raised:
        space_of(domains)
    assert "space" in str(raised.value)


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"sampler": "grid"}, r"optim\.lr: the grid sampler needs choices"),
        ({"pruner": "medien"}, "did you mean 'median'"),
        ({"second_objective": "parameters"}, "single objective"),
    ],
)
def test_a_search_that_cannot_be_is_refused(search: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        make_space(study({"optim.lr": LR}, **search))
