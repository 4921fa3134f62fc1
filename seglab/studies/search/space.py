"""The search space: which keys are searched, when, and what config they make.

Knows nothing of the optimiser: values are asked for through a function.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from seglab.core.config import RunConfig, flatten, without_local
from seglab.core.documents import merge, nested
from seglab.core.errors import UserError, unknown_name
from seglab.core.search import Range, Value, as_value
from seglab.core.study import Study, build_run

Params = dict[str, Value]
Suggest = Callable[[str, Range], Value]

_BARRED = (
    "name", "seed", "split.", "data.source", "data.root", "data.patients", "data.require",
    "data.labels",
)  # fmt: skip
"""Keys that change what is compared, or with what, rather than how well it does."""
_ODD_SHARE = 0.372
"""Where a float range is probed: no round number, so that a whole-number key refuses it."""
_MOST_POINTS = 100_000


@dataclass(frozen=True)
class Space:
    """A base config and the domains of the keys that are searched, parents first."""

    base: RunConfig
    domains: Mapping[str, Range]

    @classmethod
    def of(cls, study: Study) -> Space:
        """The space of a search, unchecked but for conditions that go round in a circle."""
        assert study.search is not None
        ordered: dict[str, Range] = {}
        rest = dict(study.search.space)
        while rest:
            ready = [key for key, domain in rest.items() if not domain.when.keys() & rest.keys()]
            if not ready:
                raise UserError(f"search.space: conditions go round in a circle: {', '.join(rest)}")
            ordered |= {key: rest.pop(key) for key in ready}
        return cls(study.run, ordered)

    def suggest(self, ask: Suggest) -> Params:
        """Ask for a value of every key that is active given the values before it."""
        params: Params = {}
        for key, domain in self.domains.items():
            if _is_active(domain, params):
                params[key] = ask(key, domain)
        return params

    def mixed(self, lower: Params, upper: Params, taken: Collection[str]) -> Params:
        """The point ``lower`` with values of ``upper``: of ``taken``, and of what they bring."""
        params: Params = {}
        for key, domain in self.domains.items():
            source = upper if key in taken or key not in lower else lower
            if key in source and _is_active(domain, params):
                params[key] = source[key]
        return params

    def build(self, params: Mapping[str, Value]) -> RunConfig:
        """Lay ``params`` over the base config; a UserError where they make no valid config."""
        return build_run(merge(self.base.to_dict(), nested(params.items())))

    @cached_property
    def base_params(self) -> Params:
        """The base config as a point of the space; a UserError where it lacks a key."""
        values = flatten(self.base.to_dict())

        def ask(key: str, domain: Range) -> Value:
            if key not in values:
                raise UserError(f"search.space: {unknown_name('key', key, values)}")
            value: Value = as_value(values[key])
            return value

        return self.suggest(ask)

    @cached_property
    def grid(self) -> list[Params]:
        """Every point, the base config first; a UserError where there are too many."""
        points: list[Params] = [{}]
        for key, domain in self.domains.items():
            values = grid_values(key, domain)
            points = [
                {**point, **more}
                for point in points
                for more in ([{key: v} for v in values] if _is_active(domain, point) else [{}])
            ]
            if len(points) > _MOST_POINTS:
                raise UserError(f"search.space: a grid of more than {_MOST_POINTS:,} points")
        return [self.base_params, *(point for point in points if point != self.base_params)]

    @cached_property
    def probes(self) -> list[RunConfig]:
        """A config for each choice and both ends of each range, in every branch it is in.

        Raises a UserError that names the first key and value that make no valid config.
        """
        found = [self.build(self.base_params)]
        for key, domain in self.domains.items():
            for branch in self._branches(key):
                found += [self._probe(key, value, branch) for value in _probe_values(domain)]
        return found

    def _branches(self, key: str) -> Iterator[Params]:
        """Every way to make ``key`` active, by the values of the keys it depends on."""
        when = self.domains[key].when
        for values in itertools.product(*map(_as_list, when.values())):
            above: Params = {}
            for other in when:
                above |= next(self._branches(other))
            yield above | dict(zip(when, values, strict=True))

    def _probe(self, key: str, value: Value, branch: Params) -> RunConfig:
        """Build a config with a value, and others of the base or the first allowed ones."""
        fixed = self.base_params | branch | {key: value}
        params = self.suggest(
            lambda other, domain: fixed[other] if other in fixed else _probe_values(domain)[0]
        )
        try:
            return self.build(params)
        except UserError as error:
            where = ", ".join(f"{k}={v}" for k, v in params.items() if k != key)
            beside = f" beside {where}" if where else ""
            raise UserError(f"search.space.{key}={value}{beside}: {error}") from None


def make_space(study: Study) -> Space:
    """Check the space of a search, all of it, before anything runs.

    Raises a UserError that names the key, and what is wrong with it: unknown, barred, a condition
    that never holds, a base config outside, a value that makes no valid config.
    """
    space = Space.of(study)
    local = flatten(study.run.to_dict()).keys() - flatten(without_local(study.run)).keys()
    for key, domain in space.domains.items():
        if key in local or any(key == bar or key.startswith(bar) for bar in _BARRED):
            raise UserError(
                f"search.space.{key}: not a matter of search; it says what is compared, or where"
            )
        _check_conditions(key, domain, space.domains)
    assert space.probes
    for key in space.base_params:
        _check_base(key, space)
    if study.search is not None and study.search.sampler == "grid":
        assert space.grid
    return space


def _is_active(domain: Range, params: Mapping[str, Value]) -> bool:
    return all(
        other in params and params[other] in _as_list(allowed)
        for other, allowed in domain.when.items()
    )


def _as_list(allowed: Value | list[Value]) -> list[Value]:
    return allowed if isinstance(allowed, list) else [allowed]


def grid_values(key: str, domain: Range) -> list[Value]:
    """Every value of a domain, in order; a UserError where there is no end of them."""
    if domain.choices is not None:
        return list(domain.choices)
    low, high = domain.bounds
    step = domain.step or (1.0 if domain.integer else None)
    if step is None:
        raise UserError(f"search.space.{key}: the grid sampler needs choices, or a step")
    values = [low + i * step for i in range(round((high - low) / step) + 1)]
    return [int(value) for value in values] if domain.integer else list(values)


def _probe_values(domain: Range) -> list[Value]:
    if domain.choices is not None:
        return list(domain.choices)
    low, high = domain.bounds
    if domain.integer:
        return [int(low), int(high)]
    if domain.step:
        return [low, min(low + domain.step, high)]
    return [low, low + _ODD_SHARE * (high - low), high]


def _check_conditions(key: str, domain: Range, domains: Mapping[str, Range]) -> None:
    for other, allowed in domain.when.items():
        if other not in domains:
            error = unknown_name("key", other, domains)
            raise UserError(f"search.space.{key}.when: only searched keys can be named: {error}")
        choices = domains[other].choices
        if choices is None:
            raise UserError(f"search.space.{key}.when: {other} is a range; it must have choices")
        for value in _as_list(allowed):
            if value not in choices:
                error = unknown_name("value", value, map(str, choices))
                raise UserError(f"search.space.{key}.when.{other}: {error}")


def _check_base(key: str, space: Space) -> None:
    """The base config is trial 0, so that a search can only tie or win."""
    value, domain = space.base_params[key], space.domains[key]
    if domain.choices is not None:
        inside, allowed = value in domain.choices, f"the choices {domain.choices}"
    else:
        low, high = domain.bounds
        steps = (float(value or 0) - low) / domain.step if domain.step else 0.0
        on_step = math.isclose(steps, round(steps), abs_tol=1e-6)
        inside = isinstance(value, int | float) and low <= value <= high and on_step
        step = f" in steps of {domain.step:g}" if domain.step else ""
        allowed = f"{low:g} to {high:g}{step}"
    if not inside:
        raise UserError(
            f"search.space.{key}: the base config, which is trial 0, has {value!r}, "
            f"outside {allowed}; widen them or change the base"
        )
