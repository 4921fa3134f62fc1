"""Turns pydantic's validation errors into one line a person can act on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from seglab.core.errors import UserError, nearest


def explain(
    error: ValidationError,
    schema: type[BaseModel],
    prefix: str = "",
    also: Sequence[str] = (),
) -> UserError:
    """Name the key path, the value and what is allowed, for the first thing that is wrong.

    Args:
        error: of validating ``schema``.
        schema: of the values.
        prefix: path of ``schema`` in the file, with its dot.
        also: keys that the file may have beside those of ``schema``.
    """
    first = error.errors()[0]
    location = first["loc"]
    path = (prefix + ".".join(str(part) for part in location)).rstrip(".")
    if first["type"] == "extra_forbidden":
        keys = list(_block_at(schema, location[:-1]).model_fields)
        keys += also if len(location) == 1 else ()
        name = location[-1]
        return UserError(
            f"unknown key '{path}'{nearest(name, keys)}; choose one of: {', '.join(sorted(keys))}"
        )
    if first["type"] == "missing":
        if location and isinstance(location[-1], int):
            return UserError(f"{path.rpartition('.')[0]}: too few values: {_short(first['input'])}")
        return UserError(f"key '{path}' is missing: it has no default")
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] in {"tuple_type", "list_type"}:
        message = "it is a list, in [brackets]"
    block = _block_at(schema, location)
    if first["type"] == "model_type" and block is not schema:
        message = _shape_of(block, path)
    hint = ""
    if first["type"] in {"literal_error", "enum"} and "expected" in first.get("ctx", {}):
        allowed = str(first["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        hint = nearest(first["input"], allowed)
    return UserError(
        f"{path or 'config'}: {_short(first['input'])} is not allowed: {message}{hint}"
    )


def _shape_of(block: type[BaseModel], path: str) -> str:
    """What a block looks like."""
    if block.model_config.get("extra") == "allow":  # a component, whose options go by its name
        return "it is a name, or a block of a name and its options"
    keys = f"it is a block of keys: {', '.join(sorted(block.model_fields))}"
    names = get_args(block.model_fields["name"].annotation) if "name" in block.model_fields else ()
    return f"{keys}; {path}.name is one of: {', '.join(names)}" if names else keys


def _block_at(schema: type[BaseModel], location: Sequence[Any]) -> type[BaseModel]:
    """The block that ``location`` lies in, as far as blocks go."""
    block = schema
    for part in location:
        field = block.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        block = inner
    return block


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
