"""``list``: what a YAML can name, one line each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from seglab.cli.shell import answer
from seglab.core.errors import unknown_name

WIDTH = 28
Name = dict[str, Any]
"""One thing a YAML can say: ``name``, ``summary``, and ``options`` with their defaults."""


def list_names(given: argparse.Namespace) -> int:
    """List what a YAML can name."""
    kind = given.kind
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    # The encoders are a hundred and take seconds to ask for.
    chosen = [kind] if kind else [name for name in KINDS if name != "encoders"]
    found = {name: list(KINDS[name](name)) for name in chosen}
    lines = []
    for name, names in found.items():
        lines.append(f"{name}:")
        for one in names:
            lines.append(f"  {one['name']:<{WIDTH}} {one['summary'].removesuffix('.')}")
            if kind and one["options"]:
                options = ", ".join(f"{key}={value}" for key, value in one["options"].items())
                lines.append(f"  {'':<{WIDTH}}   {options}")
    if not kind:
        lines.append("python -m seglab list KIND shows options and defaults; also of encoders")
    values = {name: {one["name"]: one for one in names} for name, names in found.items()}
    return answer(given, values, "\n".join(lines))


def _registered(kind: str) -> Iterator[Name]:
    from seglab.core import registry

    for entry in getattr(registry, kind.upper()):
        fields = entry.options.model_fields.items()
        options = {key: "…" if field.is_required() else field.default for key, field in fields}
        yield {"name": entry.name, "summary": entry.summary, "options": options}


def _encoders(kind: str) -> Iterator[Name]:
    from segmentation_models_pytorch.encoders import encoders
    from timm import list_models

    for name, found in sorted(encoders.items()):
        summary = f"weights: {', '.join(['none', *found['pretrained_settings']])}"
        yield {"name": name, "summary": summary, "options": {}}
    others = f"any of timm's {len(list_models())}, such as tu-convnext_atto; a tag names weights"
    yield {"name": "tu-NAME[.TAG]", "summary": others, "options": {}}


def _keys(kind: str) -> Iterator[Name]:
    from seglab.core.config import RunConfig

    for block in BLOCKS[kind]:
        schema: Any = RunConfig.model_fields[block].annotation
        for key, info in schema.model_fields.items():
            summary = " ".join((info.description or "").replace("``", "").split())
            summary = summary.removesuffix(".")
            if get_origin(info.annotation) is Literal:
                summary += f" ({' | '.join(map(str, get_args(info.annotation)))})"
            default = str(info.default) if isinstance(info.default, Path) else info.default
            options = {} if info.is_required() else {"default": default}
            yield {"name": f"{block}.{key}", "summary": summary, "options": options}


BLOCKS = {
    "input": ("data", "model", "split"),
    "training": ("optim", "schedule", "train", "evaluation"),
}
KINDS: Mapping[str, Callable[[str], Iterator[Name]]] = {
    **dict.fromkeys(("models", "losses", "augmentations", "sources"), _registered),
    "encoders": _encoders,
    **dict.fromkeys(BLOCKS, _keys),
}
