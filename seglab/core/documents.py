"""Reading and writing of files: YAML with ``base:`` and ``a.b=c`` overrides, CSV, JSON, HTML."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from seglab.core.errors import UserError, first_line, nearest

SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 200_000
"""The largest YAML file that is read, which takes PyYAML up to two seconds."""
COMPONENTS = ("model", "loss", "augment")
"""Blocks that name one of several components, each with options of its own."""
MM_PER_PX = 2.4
"""Millimetres a pixel of the baseline's slices; earlier versions augmented in pixels."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain data without aliases, which can explode, and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            problem = "aliases are not supported; use base: to share settings"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                problem = f"key '{key.value}' is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return dict(super().construct_mapping(node, deep=deep))


# YAML 1.1 reads "1e-3" as a string; everyone who writes it means a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str | bytes, origin: str) -> Any:
    """Parse YAML, in UTF-8 where it is bytes, into plain data.

    Raises a UserError that names ``origin``: not YAML, too large, too deep, an alias or a repeated
    key.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{origin}: larger than {MAX_BYTES // 1000} kB, not an experiment")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{origin}, line {line}: {error.problem}") from None
    except Exception as error:  # PyYAML raises also ValueError, IndexError and RecursionError
        raise UserError(f"{origin}: not valid YAML: {first_line(error)}") from None


def read_document(path: Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML mapping with its ``base:`` chain merged beneath it."""
    asked = f"{_seen[-1]}: base: " if _seen else ""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        held = sorted(one.name for one in path.iterdir() if one.suffix in SUFFIXES)
        told = f"it holds {', '.join(held)}" if held else "it holds no YAML file"
        raise UserError(f"{asked}{path}: a folder, not a file; {told}") from None
    except FileNotFoundError:
        folders = (Path("experiments").rglob("*"), Path().glob("*"), path.parent.glob("*"))
        files = [one for found in folders for one in found if one.suffix in SUFFIXES]
        known = {one.name: str(one) for one in files}
        if _seen:  # as it is to be written in the file that asks
            known = {one.name: os.path.relpath(one.resolve(), _seen[-1].parent) for one in files}
        raise UserError(f"{asked}{path}: no such file{nearest(path.name, known)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{asked}{path}: cannot be read: {error}") from None
    chain = (*_seen, path.resolve())
    if chain[-1] in _seen:
        names = " -> ".join(one.name for one in chain)
        raise UserError(f"{path}: base: goes round in a circle: {names}")
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


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``upper`` over ``lower``, block by block; neither is changed.

    A component of another name replaces the whole block, since its options are others.
    """
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if key in COMPONENTS:  # a bare name stands for a block
            value = {"name": value} if isinstance(value, str) else value
            below = {"name": below} if isinstance(below, str) else below
        if not (isinstance(below, Mapping) and isinstance(value, Mapping)):
            merged[key] = value
        elif key in COMPONENTS and value.get("name", below.get("name")) != below.get("name"):
            merged[key] = dict(value)
        else:
            merged[key] = merge(below, value)
    return merged


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Turn ``["a.b=1", …]`` into nested mappings; values are read as YAML."""
    values = []
    for argument in arguments:
        path, equals, text = argument.partition("=")
        if not equals or not all(path.split(".")):
            raise UserError(f"override '{argument}' is not of the form key.sub=value")
        if text.startswith(("[", "{")) and not text.rstrip().endswith(("]", "}")):
            raise UserError(f"override '{argument}' ends within a list: put all of it in quotes")
        values.append((path, parse_yaml(text, f"override '{argument}'")))
    return nested(values)


def nested(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Turn ``("a.b", 1), ("a.c", 2)`` into ``{"a": {"b": 1, "c": 2}}``."""
    result: dict[str, Any] = {}
    # Names of components first: another name replaces the options before it.
    ordered = sorted(values, key=lambda one: one[0].removesuffix(".name") not in COMPONENTS)
    for path, value in ordered:
        for key in reversed(path.split(".")):
            value = {key: value}
        result = merge(result, value)
    return result


def read_rows(
    path: Path | str, ending: str = "", content: bytes | None = None
) -> list[dict[str, str]]:
    """Read each row of a CSV file as a mapping from column to text; blank lines are skipped.

    A short row lacks its last columns; cells beyond the header are dropped. ``content`` is of a
    file that is not on this disk. Raises UserError where it is absent, not UTF-8 (with or without
    a byte order mark), not CSV, or has no column whose name ends in ``ending``.
    """
    try:
        content = Path(path).read_bytes() if content is None else content
        file = io.StringIO(content.decode("utf-8-sig"), newline="")
        header, *rows = [*csv.reader(file, strict=True)] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    if not any(name.endswith(ending) for name in header):
        raise UserError(f"{path} has no column that ends in '{ending}'")
    return [dict(zip(header, row, strict=False)) for row in rows if row]


def digest(value: object) -> str:
    """SHA-256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def json_text(value: Any) -> str:
    """Write JSON, with null for a number that is not finite."""
    return json.dumps(finite(value), indent=2, default=str)


def fill_template(
    package: str,
    name: str,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    /,
    **values: Any,
) -> str:
    """Fill a template of Jinja in ``templates`` of a package, which may include others.

    A name that has no value is an error. In HTML values are escaped, and ``tojson`` writes what a
    script element may hold.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters.update(filters or {})
    return environment.get_template(name).render(values)


def finite(value: Any) -> Any:
    """Replace floats that are not finite by None, in mappings and sequences too."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def as_of_today(document: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a config that an earlier version logged, which has no ``train.keep``.

    It kept the weights of the best epoch, and normalised slice files slice by slice.
    """
    data, train = document.get("data") or {}, document.get("train") or {}
    if "keep" in train:
        return dict(document)
    found = {**document, "train": {**train, "keep": "best"}}
    if data.get("source") == "brats-h5" and data.get("normalise_scope", "auto") == "auto":
        found["data"] = {**data, "normalise_scope": "slice"}
    augment = document.get("augment")
    if isinstance(augment, Mapping):
        found["augment"] = _augment_of_today(augment)
    return found


def _augment_of_today(old: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options in pixels and shares of the frame to millimetres."""
    match old["name"]:
        case "affine":
            shift_mm = 200 * old["shift"]  # of a frame that is cropped to the brain
            limits = {"rotate_deg": old["rotate_deg"], "scale": old["scale"]}
            new = {"name": "affine", **limits, "shift_mm": shift_mm}
        case "rotate":
            new = {"name": "affine", "rotate_deg": old["limit_deg"], "scale": 0, "shift_mm": 0}
        case "scale":
            new = {"name": "affine", "rotate_deg": 0, "scale": old["limit"], "shift_mm": 0}
        case "elastic":
            sd_px, sigma_px = old["alpha"] / (15 * old["sigma"]), old["sigma"]
            new = {"name": "elastic", "sd_mm": MM_PER_PX * sd_px, "sigma_mm": MM_PER_PX * sigma_px}
        case "brightness_contrast":
            new = {**old, "name": "tone", "gamma": 1}
        case "gamma":
            new = {"name": "tone", "gamma": old["limit"], "brightness": 0, "contrast": 0}
        case "blur":
            new = {"name": "blur", "sigma_mm": MM_PER_PX * old["sigma"]}
        case "dropout":
            side = [old["size"] / 2, old["size"]]
            holes = {"num_holes_range": [1, old["holes"]], "p": old["p"]}
            options = {**holes, "hole_height_range": side, "hole_width_range": side}
            return {"name": "albumentations", "transforms": [{"CoarseDropout": options}]}
        case "grid":
            between = [-old["limit"], old["limit"]]
            options = {"num_steps": old["steps"], "distort_limit": between, "p": old["p"]}
            return {"name": "albumentations", "transforms": [{"GridDistortion": options}]}
        case _:
            return dict(old)
    return {**new, "p": old["p"]}
