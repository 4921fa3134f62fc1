"""``list``: what a YAML can name, one line each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from seglab.cli.shell import DONE, Parser, add_json, print_json
from seglab.core.errors import unknown_name

if TYPE_CHECKING:  # every command imports this file, and pydantic takes a while
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

WIDTH = 28


@dataclass(frozen=True)
class Name:
    """One thing a YAML can say."""

    name: str
    summary: str
    options: Mapping[str, Any]
    """Option to its default, of a component."""

    def lines(self, *, detailed: bool) -> list[str]:
        """As a terminal shows it."""
        shown = [f"  {self.name:<{WIDTH}} {self.summary.removesuffix('.')}"]
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        if options and detailed:
            shown.append(f"  {'':<{WIDTH}}   {options}")
        return shown


def add_commands(commands: Any) -> None:
    """Add the commands of this room."""
    parser: Parser = commands.add_parser(
        "list",
        help="what a YAML can name",
        description="List what a YAML can name, with a line of explanation: models, their "
        "encoders, losses,\naugmentations, sources of data, and the keys of input and training.",
        epilog="examples:\n  python -m seglab list\n  python -m seglab list losses",
    )
    parser.add_argument("kind", nargs="?", metavar="KIND", help=f"one of: {', '.join(KINDS)}")
    add_json(parser)
    parser.set_defaults(do=_list)


def _list(arguments: argparse.Namespace) -> int:

    kind = arguments.kind
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    # The encoders are a hundred and take seconds to ask for.
    chosen = [kind] if kind else [name for name in KINDS if name != "encoders"]
    found = {name: KINDS[name]() for name in chosen}
    if arguments.json:
        print_json(
            {name: {one.name: asdict(one) for one in names} for name, names in found.items()}
        )
        return DONE
    for name, names in found.items():
        print(f"{name}:")
        print("\n".join(line for one in names for line in one.lines(detailed=bool(kind))))
    if not kind:
        print("python -m seglab list KIND shows options and defaults; encoders are a kind too")
    return DONE


def _registered(kind: str) -> Callable[[], list[Name]]:
    def names() -> list[Name]:
        from seglab.core import registry

        entries = {
            "models": registry.MODELS,
            "losses": registry.LOSSES,
            "augmentations": registry.AUGMENTATIONS,
            "sources": registry.SOURCES,
        }[kind]
        return [Name(entry.name, entry.summary, _defaults(entry.options)) for entry in entries]

    return names


def _defaults(options: type[BaseModel]) -> dict[str, Any]:
    return {
        key: "…" if field.is_required() else field.default
        for key, field in options.model_fields.items()
    }


def _encoders() -> list[Name]:
    from segmentation_models_pytorch.encoders import encoders
    from timm import list_models

    names = [
        Name(name, f"weights: {', '.join(['none', *found['pretrained_settings']])}", {})
        for name, found in sorted(encoders.items())
    ]
    others = f"any of timm's {len(list_models())}, such as tu-convnext_atto; a tag names weights"
    return [*names, Name("tu-NAME[.TAG]", others, {})]


def _keys(*blocks: str) -> Callable[[], list[Name]]:
    def names() -> list[Name]:
        from pydantic import BaseModel

        from seglab.core.config import RunConfig

        found = []
        for block in blocks:
            schema = RunConfig.model_fields[block].annotation
            assert isinstance(schema, type)
            assert issubclass(schema, BaseModel)
            found += [_key(f"{block}.{key}", field) for key, field in schema.model_fields.items()]
        return found

    return names


def _key(path: str, field: FieldInfo) -> Name:
    summary = " ".join((field.description or "").replace("``", "").split()).removesuffix(".")
    if get_origin(field.annotation) is Literal:
        summary += f" ({' | '.join(map(str, get_args(field.annotation)))})"
    if field.is_required():
        return Name(path, summary, {})
    default = str(field.default) if isinstance(field.default, Path) else field.default
    return Name(path, summary, {"default": default})


KINDS: Mapping[str, Callable[[], list[Name]]] = {
    **{kind: _registered(kind) for kind in ("models", "losses", "augmentations", "sources")},
    "encoders": _encoders,
    "input": _keys("data", "split"),
    "training": _keys("optim", "schedule", "train", "evaluation"),
}
