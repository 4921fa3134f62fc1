"""Registries: what a YAML may name, and the options of each name.

A builder is one decorated function, or a class. Its positional parameters come from the program
(``in_channels``, …), its keyword-only ones are the options of a YAML, with types, ranges and
defaults. The first line of its docstring is its help text::

    @LOSSES.register("tversky")
    def tversky(*, alpha: Annotated[float, Field(ge=0, le=1)] = 0.7) -> Loss:
        \"\"\"Weighs misses (alpha) against false alarms (1 - alpha); Salehi 2017.\"\"\"
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

from seglab.core.errors import UserError, unknown_name

Builder = TypeVar("Builder", bound=Callable[..., Any])
Built = TypeVar("Built")


@dataclass(frozen=True)
class Entry(Generic[Built]):
    """One name: how to build it, one line about it, and the schema of its options."""

    name: str
    build: Callable[..., Built]
    summary: str
    options: type[BaseModel]


class Registry(Generic[Built]):
    """Maps the names of one kind of component to their builders.

    The components are registered where ``package`` is imported, on the first lookup.
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._registered: dict[str, Entry[Built]] = {}
        self._retired: dict[str, str] = {}

    @property
    def _entries(self) -> dict[str, Entry[Built]]:
        if self._package:
            importlib.import_module(self._package)
        return self._registered

    def register(self, name: str) -> Callable[[Builder], Builder]:
        """Decorate a builder so that a YAML can name it; its docstring is its help text."""

        def decorate(builder: Builder) -> Builder:
            known = self._registered.get(name)
            if known is not None and known.build.__qualname__ != builder.__qualname__:
                raise ValueError(f"{self.kind} '{name}' is already registered")
            if not builder.__doc__:
                raise ValueError(f"{self.kind} '{name}' needs a docstring: it is its help text")
            summary = builder.__doc__.strip().splitlines()[0]
            self._registered[name] = Entry(name, builder, summary, _options_schema(name, builder))
            return builder

        return decorate

    def retire(self, name: str, reason: str) -> None:
        """Have the error for a name of older configs say why it is gone."""
        self._retired[name] = reason

    def __getitem__(self, name: str) -> Entry[Built]:
        """Look a name up; ``UserError`` if there is none, or none any more."""
        entries = self._entries
        if name in self._retired:
            gone = f"{self.kind} '{name}' is gone: {self._retired[name]}"
            raise UserError(f"{gone}; choose one of: {', '.join(sorted(entries))}")
        if name not in entries:
            raise unknown_name(self.kind, name, entries)
        return entries[name]

    def __iter__(self) -> Iterator[Entry[Built]]:
        return iter(self._entries.values())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def options(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Validate options for ``name`` and fill in the defaults.

        Raises:
            UserError: unknown name.
            pydantic.ValidationError: unknown, mistyped or out-of-range option.
        """
        return self[name].options.model_validate(dict(given)).model_dump()

    def build(self, name: str, options: Mapping[str, Any], *context: Any) -> Built:
        """Call the builder of ``name`` with its context and validated options."""
        return self[name].build(*context, **self.options(name, options))


def _options_schema(name: str, builder: Callable[..., Any]) -> type[BaseModel]:
    function = vars(builder).get("__init__", builder)  # of a class
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        parameter.name: (
            hints[parameter.name],
            ... if parameter.default is inspect.Parameter.empty else parameter.default,
        )
        for parameter in inspect.signature(builder).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    strict = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    return create_model(f"{name}_options", __config__=strict, **fields)


MODELS: Registry[Any] = Registry("model", "seglab.models")
LOSSES: Registry[Any] = Registry("loss", "seglab.losses")
AUGMENTATIONS: Registry[Any] = Registry("augmentation", "seglab.augment")
SOURCES: Registry[Any] = Registry("data source", "seglab.data.sources")
