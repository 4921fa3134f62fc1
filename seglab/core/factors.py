"""``factors:`` of an experiment file: the arms of a factorial design."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seglab.core.config import flatten
from seglab.core.documents import nested
from seglab.core.errors import UserError, unknown_name
from seglab.core.search import as_value

FACTOR_KEYS = ("factors", "design", "train_patients")
DESIGNS = ("full", "main")
TRAIN_PATIENTS = "train.patients"
MAX_ARMS = 32
"""What the tags of the parent run have room for."""


@dataclass(frozen=True)
class Design:
    """A factorial design; the first level of a factor is what its others are compared with."""

    levels: Mapping[str, Sequence[str]]
    """Labels of the levels by the key of the factor."""
    design: str = "full"
    """``full``: the whole grid; ``main``: half of it, from five factors on a quarter."""

    @property
    def words(self) -> list[frozenset[int]]:
        """Defining relation of the fraction: sets of factors, none in a full grid.

        The arms kept have an even number of second levels in each set, so the first levels are
        an arm (Box, Hunter and Hunter 2005, chapter 6). Resolution III for three and five
        factors, IV or more for others.
        """
        number = len(self.levels)
        if self.design == "full":
            return []
        if number < 5:
            return [frozenset(range(number))]
        free = number - 2
        first = frozenset([*range(-(-2 * free // 3)), free])
        second = frozenset([*range(free // 3, free), free + 1])
        return [first, second, first ^ second]

    @property
    def sizes(self) -> Sequence[str]:
        """Labels of the numbers of training patients, where these are the only factor."""
        return self.levels[TRAIN_PATIENTS] if [*self.levels] == [TRAIN_PATIENTS] else ()

    @property
    def points(self) -> dict[str, tuple[int, ...]]:
        """Number of the level of each factor, by the name of the arm."""
        ends = [key.removesuffix(".name").rpartition(".")[2] for key in self.levels]
        shorts = [
            end if ends.count(end) == 1 else key for key, end in zip(self.levels, ends, strict=True)
        ]
        labels = list(self.levels.values())
        return {
            " ".join(f"{shorts[k]}={labels[k][level]}" for k, level in enumerate(point)): point
            for point in itertools.product(*(range(len(one)) for one in labels))
            if all(sum(point[k] for k in word) % 2 == 0 for word in self.words)
        }

    def aliases(self, factor: int) -> Iterator[tuple[int, int]]:
        """Two-way interactions that a fraction cannot tell from the main effect of a factor."""
        for pair in itertools.combinations(range(len(self.levels)), 2):
            if {factor} ^ {*pair} in self.words:
                yield pair


def with_arms(document: Mapping[str, Any]) -> tuple[dict[str, Any], Design | None]:
    """Write out the arms of ``factors`` or ``train_patients``; also the design, if there is one."""
    values = _values(document)
    if not values:
        if document.get("design") is not None:
            raise UserError("design: a design needs 'factors'")
        return dict(document), None
    labels = {key: [_label(key, value) for value in levels] for key, levels in values.items()}
    design = Design(labels, document.get("design") or "full")
    sizes = document.get("train_patients")
    _check(design, ["train_patients"] if sizes else [f"factors.{key}" for key in values])
    arms = {
        arm: nested((key, values[key][k]) for key, k in zip(values, point, strict=True))
        for arm, point in design.points.items()
    }
    if len(arms) > MAX_ARMS:
        raise UserError(f"factors: {len(arms)} arms, at most {MAX_ARMS}; design: main takes fewer")
    expanded = dict(document)
    if sizes and document.get("baseline") is None:
        expanded["baseline"] = list(arms)[-1]
    if given := document.get("arms"):  # written out before, perhaps without some
        if not isinstance(given, dict) or not set(map(str, given)) <= arms.keys():
            raise UserError("a file has 'arms', 'factors' or 'train_patients', not several of them")
        return expanded, design
    return expanded | {"arms": arms}, design


def _values(document: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """Levels of every factor by its key."""
    factors, sizes = document.get("factors"), document.get("train_patients")
    if factors and sizes:
        raise UserError(f"train_patients: beside factors it is one of them: {TRAIN_PATIENTS}")
    if sizes is not None:
        if not isinstance(sizes, list) or not all(type(size) is int for size in sizes):
            raise UserError(f"train_patients: {sizes!r} is not a list of numbers of patients")
        factors = {TRAIN_PATIENTS: sorted(sizes)}
    if factors is None:
        return {}
    if not isinstance(factors, dict) or not factors:
        raise UserError("factors: expected 'key: [value, …]' entries, one a factor")
    flat = {key: levels for key, levels in flatten(factors).items() if levels is not None}
    for key, levels in flat.items():
        if not isinstance(levels, list):
            raise UserError(f"factors.{key}: {levels!r} is not a list of levels")
    return flat


def _label(key: str, value: Any) -> str:
    if isinstance(value, dict):
        raise UserError(f"factors.{key}: a level is a value or a list, not a block: {value}")
    value = as_value(value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _check(design: Design, places: Sequence[str]) -> None:
    if design.design not in DESIGNS:
        raise unknown_name("design", design.design, DESIGNS)
    for where, labels in zip(places, design.levels.values(), strict=True):
        if len(labels) < 2:
            raise UserError(f"{where}: one level; a factor has two or more")
        if len({*labels}) < len(labels):
            raise UserError(f"{where}: a level is given twice: {', '.join(labels)}")
    if unknown := [size for size in design.sizes if not size.isdecimal()]:
        raise UserError(f"{places[0]}: a level is a number of patients, not {unknown[0]!r}")
    if design.design == "main":
        more = [key for key, labels in design.levels.items() if len(labels) != 2]
        if more:
            raise UserError(f"design: main needs two levels a factor, {more[0]} has more; use full")
        if len(design.levels) < 3:
            raise UserError("design: main needs three factors or more; use full")
