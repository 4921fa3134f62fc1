"""Reading experiment files: YAML, ``base:`` inheritance and ``a.b=c`` overrides."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from seglab.core.errors import UserError, first_line

MAX_BYTES = 200_000
"""The largest file that is read: PyYAML takes up to two seconds for as much."""
MAX_DEPTH = 20
MAX_NUMBER = 2**63 - 1
_TAG = "tag:yaml.org,2002:"
_TEXT = f"{_TAG}str"
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map", "timestamp")
_PLAIN = {_TAG + kind for kind in _KINDS}
_LONGEST_NUMBER = 100


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain data only: no aliases (they can explode), no repeated keys, 1e-3 is a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(
                problem="aliases are not supported; use base: to share settings", problem_mark=mark
            )
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in _PLAIN:
            raise _marked(f"there is no constructor for the tag '{node.tag}'", node)
        is_number = isinstance(node, yaml.ScalarNode) and node.tag != _TEXT
        if is_number and len(node.value) > _LONGEST_NUMBER:
            raise _marked(f"a number of {len(node.value)} characters", node)
        try:
            value = super().construct_object(node, deep)
        except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError):
            # What PyYAML raises where a tag does not fit: "!!int ''", "!!timestamp x".
            kind = node.tag.removeprefix(_TAG)
            raise _marked(f"{_short(node.value)} is not of the kind '{kind}'", node) from None
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise _marked(f"{_short(node.value)} is beyond {MAX_NUMBER}", node)
        if isinstance(value, str) and not _is_clean(value):
            raise _marked("a text with a NUL or half a character", node)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key}' is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return dict(super().construct_mapping(node, deep=deep))


def _marked(problem: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _short(text: object) -> str:
    return repr(text)[:60]


def _is_clean(text: str) -> bool:
    """Whether files can be named by it and it can be written down: escapes can say anything."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


# YAML 1.1 reads "1e-3" as a string; everyone who writes it means a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, origin: str) -> Any:
    """Parse YAML text into plain data.

    Raises:
        UserError: not YAML, too large, too deep, an alias or a repeated key; names ``origin``.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{origin}: larger than {MAX_BYTES // 1000} kB, not an experiment")
    try:
        parsed = yaml.load(text, Loader=_Loader)
        _check_depth(parsed)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{origin}, line {line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{origin}: not valid YAML: {first_line(error)}") from None
    return parsed


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    inner = list(value.values()) if isinstance(value, dict) else value
    for item in inner if isinstance(inner, list) else ():
        _check_depth(item, depth + 1)


def read_document(path: Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML mapping with its ``base:`` chain merged beneath it.

    Raises:
        UserError: a file that is absent, unreadable, not a mapping, or its own ancestor.
    """
    try:
        text = _read_text(path)
    except UserError as error:
        raise UserError(f"{_seen[-1]}: base: {error}" if _seen else str(error)) from None
    chain = (*_seen, path.resolve())
    if chain[-1] in _seen:
        names = " -> ".join(one.name for one in chain)
        raise UserError(f"{path}: base: goes round in a circle: {names}")
    if len(_seen) > MAX_DEPTH:
        raise UserError(f"{path}: base: more than {MAX_DEPTH} files one on another")
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise UserError(f"{path}: expected 'key: value' lines at the top level")
    base = document.pop("base", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise UserError(f"{path}: base: must be the name of one file, not {base!r}")
    below = chain[-1].parent / base  # beside the file itself, where ``path`` is a link to it
    return merge(read_document(below, chain), document)


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, /dev/zero never end
            raise UserError(f"{path}: not a file")
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


COMPONENTS = ("model", "loss", "augment")
"""Blocks that name one of several components, each with options of its own."""


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``upper`` over ``lower``, block by block; neither is changed.

    A component of another name replaces the block whole: the options of one loss
    mean nothing to another.
    """
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if key in COMPONENTS:
            value, below = _named(value), _named(below)
        if not (isinstance(below, Mapping) and isinstance(value, Mapping)):
            merged[key] = value
        elif key in COMPONENTS and value.get("name", below.get("name")) != below.get("name"):
            merged[key] = dict(value)
        else:
            merged[key] = merge(below, value)
    return merged


def _named(block: Any) -> Any:
    """A component given by its bare name, as a block."""
    return {"name": block} if isinstance(block, str) else block


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Turn ``["a.b=1", …]`` into nested mappings; values are read as YAML.

    Raises:
        UserError: an argument without ``=`` or with an empty key.
    """
    result: dict[str, Any] = {}
    for argument in arguments:
        path, equals, text = argument.partition("=")
        if not equals or not all(path.split(".")):
            raise UserError(f"override '{argument}' is not of the form key.sub=value")
        if path.count(".") > MAX_DEPTH:
            raise UserError(f"override '{argument[:60]}…': nested deeper than {MAX_DEPTH} levels")
        result = merge(result, nest(path, parse_yaml(text, f"override '{argument}'")))
    return result


def parse_json(text: str) -> Any:
    """Parse JSON text.

    Raises:
        ValueError: not JSON, also where it is nested so deeply that it cannot be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_text(value: Any) -> str:
    """Write JSON; a number that does not exist is null, for JSON has no word for it."""
    return json.dumps(finite(value), indent=2, default=str)


def finite(value: Any) -> Any:
    """Replace what is no finite number by None, in mappings and sequences too."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def nest(path: str, value: Any) -> dict[str, Any]:
    """``nest("a.b", 1)`` is ``{"a": {"b": 1}}``."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)
