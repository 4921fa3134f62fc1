"""Factors of an experiment file: the arms they make, and the mistakes that are named."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from seglab.core.errors import UserError
from seglab.core.factors import Design
from seglab.core.study import resolve_study
from tests.core.test_study import load

FACTORS = "factors: {loss.name: [bce_dice, dice], data.modalities: [[flair], [flair, t1ce]]}\n"


def test_a_grid_has_an_arm_for_every_combination(tmp_path: Path) -> None:
    study = load(tmp_path, FACTORS)
    assert {a: (c.loss.name, c.data.modalities) for a, c in study.arms.items()} == {
        "loss=bce_dice modalities=flair": ("bce_dice", ("flair",)),
        "loss=bce_dice modalities=flair+t1ce": ("bce_dice", ("flair", "t1ce")),
        "loss=dice modalities=flair": ("dice", ("flair",)),
        "loss=dice modalities=flair+t1ce": ("dice", ("flair", "t1ce")),
    }
    assert study.baseline == "loss=bce_dice modalities=flair"
    again = resolve_study(study.document)
    assert (again.arms, again.design) == (study.arms, study.design)


def test_a_grid_is_the_same_experiment_as_its_arms_written_out(tmp_path: Path) -> None:
    grid = load(tmp_path, FACTORS)
    arms = {
        "a": {},
        "b": {"data": {"modalities": ["flair", "t1ce"]}},
        "c": {"loss": "dice"},
        "d": {"loss": "dice", "data": {"modalities": ["flair", "t1ce"]}},
    }
    written = load(tmp_path, f"arms: {arms}")
    assert [one.hash() for one in grid.arms.values()] == [x.hash() for x in written.arms.values()]


def test_overrides_and_chosen_arms_work_on_the_grid(tmp_path: Path) -> None:
    more = load(tmp_path, FACTORS, "factors.loss.name=[bce_dice,dice,bce]")
    assert len(more.arms) == 6
    one = load(tmp_path, FACTORS, arms=("loss=dice modalities=flair",))
    assert [*one.arms] == ["loss=dice modalities=flair"]


def test_numbers_of_training_patients_are_arms(tmp_path: Path) -> None:
    study = load(tmp_path, "train_patients: [40, 10, 20]")
    assert [one.train.patients for one in study.arms.values()] == [10, 20, 40]
    assert study.baseline == "patients=40"
    assert load(tmp_path, "", "train.patients=null").run.hash() == load(tmp_path, "").run.hash()
    assert load(tmp_path, "", "train.patients=9").run.hash() != load(tmp_path, "").run.hash()


@pytest.mark.parametrize("factors", range(3, 9))
def test_a_fraction_is_balanced_and_names_what_it_mixes(factors: int) -> None:
    design = Design({f"f{k}": ("a", "b") for k in range(factors)}, "main")
    points = np.array(list(design.points.values()))
    signs = 2 * points - 1
    assert len(points) == 2**factors // (2 if factors < 5 else 4)
    assert (signs[0] == -1).all(), "the base config is an arm"
    assert (signs.T @ signs == len(points) * np.eye(factors)).all(), "columns are orthogonal"
    for k in range(factors):
        mixed = {
            (a, b)
            for a, b in itertools.combinations(range(factors), 2)
            if abs((signs[:, a] * signs[:, b] * signs[:, k]).sum()) == len(points)
            and k not in (a, b)
        }
        assert set(design.aliases(k)) == mixed
        assert bool(mixed) <= (factors in (3, 5)), "resolution IV or more"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("factors: {loss.name: [dice]}", r"factors\.loss\.name: one level; a factor has two"),
        ("factors: {loss.name: dice}", r"factors\.loss\.name: .*a list of levels"),
        (
            "factors: {loss.name: [dice, dice]}",
            r"factors\.loss\.name: a level is given twice: dice",
        ),
        ("factors: {loss.name: [bce, dicee]}", r"loss=dicee: .*unknown loss 'dicee'.*'dice'"),
        ("factors: {optm.lr: [1, 2]}", r"unknown key 'optm' \(did you mean 'optim'"),
        ("factors: {loss: [{name: dice}, bce]}", r"factors\.loss: a level is a value or a list"),
        ("factors: {split.seed: [0, 1]}", "'split' is the study's"),
        ("factors: [dice]", "factors: expected"),
        (f"{FACTORS}design: mian", r"unknown design 'mian' \(did you mean 'main'"),
        (f"{FACTORS}design: main", "design: main needs three factors"),
        (f"{FACTORS}arms: {{a: {{}}}}", "not several of them"),
        (f"{FACTORS}train_patients: [1, 2]", "train_patients: beside factors"),
        ("design: full", "design: a design needs 'factors'"),
        ("train_patients: [10]", r"train_patients: one level"),
        (
            "factors: {train.patients: [10, null]}",
            r"factors\.train\.patients: a level is a number of patients, not 'none'",
        ),
        ("train_patients: ten", r"train_patients: 'ten' is not a list"),
        ("train_patients: [0, 4]", r"train\.patients: 0 is not allowed"),
        ("factors: {train.epochs: [1, 2, 3, 4, 5, 6], seed: [1, 2]}", "'seed' is the study's"),
        (
            "factors: {train.epochs: [1, 2, 3, 4, 5, 6], train.batch_size: [1, 2, 3, 4, 5, 6]}",
            "factors: 36 arms, at most 32",
        ),
        (
            "factors: {loss.name: [bce, dice, mcc], optim.lr: [1, 2], train.epochs: [1, 2]}\n"
            "design: main",
            r"design: main needs two levels a factor, loss\.name has more",
        ),
    ],
)
def test_a_mistaken_factor_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
