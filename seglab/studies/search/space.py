"""The search space: which keys are searched, when, and what config they make.

Knows nothing of the optimiser: values are asked for through a function.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from seglab.core.config import RunConfig, flatten, without_local
from seglab.core.documents import merge, nest
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


@dataclass(frozen=True)
class Space:
    """A base config and the domains of the keys that are searched, parents first."""

    base: RunConfig
    domains: Mapping[str, Range]

    def suggest(self, ask: Suggest) -> Params:
        """Ask for a value of every key that is active given the values before it."""
        params: Params = {}
        for key, domain in self.domains.items():
            if _is_active(domain, params):
                params[key] = ask(key, domain)
        return params

    def build(self, params: Mapping[str, Value]) -> RunConfig:
        """Lay ``params`` over the base config.

        Raises:
            UserError: they make no valid config.
        """
        document = self.base.to_dict()
        for key in self.domains:
            if key in params:
                document = merge(document, nest(key, params[key]))
        return build_run(document)

    @cached_property
    def base_params(self) -> Params:
        """The base config as a point of the space."""
        values = flatten(self.base.to_dict())
        return self.suggest(lambda key, domain: as_value(values[key]))

    def grid(self) -> Iterator[Params]:
        """Every point, the base config first.

        Raises:
            UserError: a float range without a step has no end of points.
        """
        yield self.base_params
        for params in self._grid({}, list(self.domains.items())):
            if params != self.base_params:
                yield params

    def _grid(self, params: Params, rest: list[tuple[str, Range]]) -> Iterator[Params]:
        if not rest:
            yield params
            return
        (key, domain), *others = rest
        if not _is_active(domain, params):
            yield from self._grid(params, others)
            return
        for value in grid_values(key, domain):
            yield from self._grid({**params, key: value}, others)


def _is_active(domain: Range, params: Mapping[str, Value]) -> bool:
    return all(
        other in params and params[other] in _as_list(allowed)
        for other, allowed in domain.when.items()
    )


def _as_list(allowed: Value | list[Value]) -> list[Value]:
    return allowed if isinstance(allowed, list) else [allowed]


def grid_values(key: str, domain: Range) -> list[Value]:
    """Every value of a domain, in order.

    Raises:
        UserError: there is no end of them.
    """
    if domain.choices is not None:
        return list(domain.choices)
    assert domain.low is not None
    assert domain.high is not None
    step = domain.step or (1.0 if domain.integer else None)
    if step is None:
        raise UserError(f"search.space.{key}: the grid sampler needs choices, or a step")
    count = math.floor((domain.high - domain.low) / step + 1e-9) + 1
    values = [domain.low + i * step for i in range(count)]
    return [int(value) for value in values] if domain.integer else list(values)


def make_space(study: Study) -> Space:
    """Check the space of a search, all of it, before anything runs.

    Raises:
        UserError: names the key, and what is wrong with it: unknown, barred, a condition
            that never holds, a base config outside, a value that makes no valid config.
    """
    assert study.search is not None
    space = Space(study.run, _parents_first(study.search.space))
    for key, domain in space.domains.items():
        _check_barred(key, study.run)
        _check_conditions(key, domain, space.domains)
    for _ in probes(space):
        pass
    for key in space.base_params:
        _check_base(key, space)
    if study.search.sampler == "grid":
        for key, domain in space.domains.items():
            grid_values(key, domain)
    return space


def _parents_first(domains: Mapping[str, Range]) -> dict[str, Range]:
    ordered: dict[str, Range] = {}
    rest = dict(domains)
    while rest:
        ready = [key for key, domain in rest.items() if not set(domain.when) & set(rest)]
        if not ready:
            raise UserError(f"search.space: conditions go round in a circle: {', '.join(rest)}")
        for key in ready:
            ordered[key] = rest.pop(key)
    return ordered


def _check_barred(key: str, base: RunConfig) -> None:
    local = flatten(base.to_dict()).keys() - flatten(without_local(base)).keys()
    if key in local or any(key == bar or key.startswith(bar) for bar in _BARRED):
        raise UserError(
            f"search.space.{key}: not a matter of search; it says what is compared, or where"
        )


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
        inside = isinstance(value, int | float) and _in_range(float(value), domain)
        step = f" in steps of {domain.step:g}" if domain.step else ""
        allowed = f"{domain.low:g} to {domain.high:g}{step}"
    if not inside:
        raise UserError(
            f"search.space.{key}: the base config, which is trial 0, has {value!r}, "
            f"outside {allowed}; widen them or change the base"
        )


def _in_range(value: float, domain: Range) -> bool:
    assert domain.low is not None
    assert domain.high is not None
    steps = (value - domain.low) / domain.step if domain.step else 0.0
    return domain.low <= value <= domain.high and math.isclose(steps, round(steps), abs_tol=1e-6)


def probes(space: Space) -> Iterator[RunConfig]:
    """Build a config for each choice and both ends of each range, in every branch it is in.

    Raises:
        UserError: names the first key and value that make no valid config.
    """
    yield space.build(space.base_params) if _base_fits(space) else space.base
    for key, domain in space.domains.items():
        for branch in _branches(key, space):
            for value in _probe_values(domain):
                params = _complete(space, {**branch, key: value})
                try:
                    yield space.build(params)
                except UserError as error:
                    where = ", ".join(f"{k}={v}" for k, v in params.items() if k != key)
                    beside = f" beside {where}" if where else ""
                    raise UserError(f"search.space.{key}={value}{beside}: {error}") from None


def _base_fits(space: Space) -> bool:
    values = flatten(space.base.to_dict())
    try:
        space.suggest(lambda key, domain: values[key])
    except KeyError as error:
        key = str(error.args[0])
        unknown = unknown_name("key", key, values)
        raise UserError(
            f"search.space: {unknown}; if another choice brings it, add when:"
        ) from None
    return True


def _branches(key: str, space: Space) -> Iterator[Params]:
    """Every way to make ``key`` active, by the values of the keys it depends on."""
    conditions = space.domains[key].when
    for values in itertools.product(*(_as_list(allowed) for allowed in conditions.values())):
        direct = dict(zip(conditions, values, strict=True))
        above = [next(_branches(other, space)) for other in direct]
        yield {**{k: v for params in above for k, v in params.items()}, **direct}


def _complete(space: Space, fixed: Params) -> Params:
    """Fill in the base config's values, or the first allowed ones, beside ``fixed``."""

    def choose(key: str, domain: Range) -> Value:
        return fixed.get(key, space.base_params.get(key, _probe_values(domain)[0]))

    return space.suggest(choose)


def _probe_values(domain: Range) -> list[Value]:
    if domain.choices is not None:
        return list(domain.choices)
    assert domain.low is not None
    assert domain.high is not None
    if domain.integer:
        return [int(domain.low), int(domain.high)]
    if domain.step:
        return [domain.low, min(domain.low + domain.step, domain.high)]
    return [domain.low, domain.low + _ODD_SHARE * (domain.high - domain.low), domain.high]
