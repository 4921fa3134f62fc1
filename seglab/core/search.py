"""The ``search:`` block of a YAML: what is searched, how, and what is stopped early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from seglab.core.blocks import Block, PositiveInt
from seglab.core.documents import merge

Value = str | int | float | bool | None


def as_value(given: Any) -> Any:
    """A value of a key as a search holds it: a list of names as one text."""
    is_names = isinstance(given, list) and all(isinstance(name, str) for name in given)
    return "+".join(given) if is_names else given


class Range(Block):
    """The values a search may give one key: choices, or a range."""

    choices: list[Value] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None
    integer: bool = False
    when: dict[str, Value | list[Value]] = Field(default_factory=dict)
    """Only searched where these other keys have these values."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value, the latter as steps reach it, where there are no choices."""
        assert self.low is not None
        assert self.high is not None
        if self.step is None:
            return self.low, self.high
        steps = math.floor((self.high - self.low) / self.step + 1e-9)
        return self.low, self.low + steps * self.step

    @field_validator("choices", mode="before")
    @classmethod
    def _lists_of_names(cls, given: Any) -> Any:
        """Take a list of names for one value: ``[flair, t1ce]`` is ``flair+t1ce``."""
        if given == []:
            raise ValueError("choices is empty")
        return [as_value(choice) for choice in given] if isinstance(given, list) else given

    @model_validator(mode="after")
    def _makes_sense(self) -> Range:
        given = (self.low is not None) + (self.high is not None)
        if given != (0 if self.choices else 2):
            raise ValueError("give choices, or low and high")
        if self.choices:
            return self
        low, high = self.low or 0.0, self.high or 0.0
        if low > high:
            raise ValueError(f"low {low:g} is above high {high:g}")
        if self.log and low <= 0:
            raise ValueError("a log range must start above 0")
        if self.log and self.step is not None:
            raise ValueError("a log range takes no step")
        if self.integer and not all(value.is_integer() for value in (low, high, self.step or 1.0)):
            raise ValueError("an integer range has a whole low, high and step")
        return self


class Pruner(Block):
    """Which trials are stopped before their end; the first, the base config, never is."""

    name: Literal["none", "rungs", "median", "percentile", "halving", "hyperband"] = "rungs"
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of the epochs that every trial is given."""
    startup_trials: Annotated[int, Field(ge=0)] | None = None
    """Trials that run to their end before any is pruned; None takes what suits the pruner."""
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    """Of ``percentile``: the share of trials, in per cent, that goes on."""

    @property
    def startup(self) -> int:
        """Trials that run to their end before any is pruned."""
        if self.startup_trials is not None:
            return self.startup_trials
        return 4 if self.name in {"median", "percentile"} else 0


class Confirm(Block):
    """The best few trials retrained over fresh seeds and patients beside the base config."""

    top: Annotated[int, Field(ge=0)] = 2
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (100, 101, 102)


class Search(Block):
    """A search over keys of the config for the best validation patient Dice."""

    space: Annotated[dict[str, Range], Field(min_length=1)]
    trials: PositiveInt = 20
    sampler: Literal["tpe", "gp", "random", "qmc", "grid"] = "tpe"
    seed: Annotated[int, Field(ge=0)] = 0
    pruner: Pruner = Pruner()
    second_objective: Literal["none", "train_seconds", "parameters"] = "none"
    storage: str | None = None
    """``postgresql+psycopg://…`` for several machines; None keeps the study under mlruns."""
    heartbeat_s: Annotated[int, Field(ge=1)] = 20
    """Seconds between heartbeats; a machine that has sent none for three of these is dead."""
    confirm: Confirm = Confirm()

    @field_validator("pruner", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """Take the bare name of a pruner, as of a loss."""
        return {"name": given} if isinstance(given, str) else given

    @field_validator("confirm", mode="before")
    @classmethod
    def _may_be_none(cls, given: Any) -> Any:
        """Take null for no confirmation."""
        return {"top": 0} if given is None else given

    @field_validator("space", mode="before")
    @classmethod
    def _flat(cls, given: Any) -> Any:
        """Take ``optim: {lr: …}``, which is how an override reads, for ``optim.lr``."""
        return _flat_domains(given) if isinstance(given, dict) else given

    @field_validator("second_objective")
    @classmethod
    def _objectives(cls, second: str, info: ValidationInfo) -> str:
        pruner = info.data.get("pruner")
        if second != "none" and pruner is not None and pruner.name != "none":
            raise ValueError("a pruner needs a single objective: set pruner: {name: none}")
        return second


def _flat_domains(given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in given.items():
        path = f"{prefix}{key}"
        is_domain = not isinstance(value, dict) or bool(value.keys() & Range.model_fields.keys())
        if not is_domain and "." in path:  # a domain of wrong keys holds no blocks
            is_domain = not any(isinstance(one, dict) for one in value.values())
        is_block = value and not is_domain
        flat = merge(flat, _flat_domains(value, f"{path}.") if is_block else {path: value})
    return flat
