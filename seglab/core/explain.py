"""Turns pydantic's validation errors into one line a person can act on."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from seglab.core.errors import UserError, nearest


def explain(error: ValidationError, schema: type[BaseModel], prefix: str = "") -> UserError:
    """Name the key path, the value and what is allowed, for the first thing that is wrong."""
    first = error.errors()[0]
    path = (prefix + ".".join(str(part) for part in first["loc"])).rstrip(".")
    if first["type"] == "extra_forbidden":
        keys = _keys_beside(schema, first["loc"])
        name = first["loc"][-1]
        return UserError(
            f"unknown key '{path}'{nearest(name, keys)}; choose one of: {', '.join(sorted(keys))}"
        )
    if first["type"] == "missing":
        return UserError(f"key '{path}' is missing: it has no default")
    message = str(first["msg"]).removeprefix("Value error, ")
    hint = ""
    if first["type"] in {"literal_error", "enum"} and "expected" in first.get("ctx", {}):
        allowed = str(first["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        hint = nearest(first["input"], allowed)
    return UserError(
        f"{path or 'config'}: {_short(first['input'])} is not allowed: {message}{hint}"
    )


def _keys_beside(schema: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """List the keys that the block at ``location`` does have."""
    block = schema
    for part in location[:-1]:
        field = block.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        block = inner
    return list(block.model_fields)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
