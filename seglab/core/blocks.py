"""What a configuration is made of: frozen blocks, named components, and errors in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seglab.core.errors import UserError, nearest
from seglab.core.registry import Registry

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Validated = TypeVar("Validated", bound=BaseModel)


class Block(BaseModel):
    """A frozen mapping that refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, given: Any) -> Any:
        """Refuse ``yes``, which YAML reads as true and Python takes for 1."""
        for key, value in given.items() if isinstance(given, dict) else ():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field and field.annotation is not bool:
                raise ValueError(f"{key}: {str(value).lower()} is not a number or a name")
        return given


class Component(BaseModel):
    """A registered name with its options; a bare string is a name with defaults."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)
    registry: ClassVar[Registry[Any]]
    default: ClassVar[str]
    """Taken where only options are given."""

    name: str
    """Of the component; ``python -m seglab list``."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"name": given}
        if not isinstance(given, dict):
            return given
        name, block = str(given.get("name", cls.default)), cls.__name__.lower()
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        options = {key: value for key, value in given.items() if key not in own}
        try:
            return {**own, "name": name, **cls.registry.options(name, options)}
        except ValidationError as error:
            also = [key for key in cls.model_fields if key != "name"]
            raise explain(error, cls.registry[name].options, f"{block}.", also) from None
        except UserError as error:
            raise UserError(f"{block}.name: {error}") from None

    @property
    def options(self) -> dict[str, Any]:
        """The validated options, defaults filled in."""
        return dict(self.model_extra or {})

    def build(self, *context: Any) -> Any:
        """Build the component with the context its registry asks for."""
        return self.registry.build(self.name, self.options, *context)


def validate(
    schema: type[Validated], given: Any, prefix: str = "", also: Sequence[str] = ()
) -> Validated:
    """Validate values as :func:`explain` tells of them."""
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise explain(error, schema, prefix, also) from None


def explain(
    error: ValidationError, schema: type[BaseModel], prefix: str = "", also: Sequence[str] = ()
) -> UserError:
    """Name the key path, the value and what is allowed, for the first mistake.

    ``prefix`` is the path of ``schema`` in the file, with its dot; ``also`` are keys that the file
    may have beside those of ``schema``.
    """
    first = error.errors()[0]
    kind, location, given = first["type"], first["loc"], repr(first["input"])
    given = given if len(given) <= 60 else given[:57] + "..."
    path = (prefix + ".".join(str(part) for part in location)).rstrip(".")
    block = _block_at(schema, location)
    if kind == "extra_forbidden":
        keys = sorted({*block.model_fields, *(also if len(location) == 1 else ())})
        key, above = str(location[-1]), path.rpartition(".")[0]
        hint = nearest(key, {one: f"{above}.{one}" if above else one for one in keys})
        blocks = {name: _block_at(schema, [name]) for name in schema.model_fields}
        holders = [name for name, one in blocks.items() if one is not schema]
        within = [f"'{name}.{key}'" for name in holders if key in blocks[name].model_fields]
        if within and not above:
            hint = f" (did you mean {' or '.join(within)}?)"
        return UserError(f"unknown key '{path}'{hint}; choose one of: {', '.join(keys)}")
    if kind == "missing":
        if isinstance(location[-1], int):
            return UserError(f"{path.rpartition('.')[0]}: too few values: {given}")
        return UserError(f"key '{path}' is missing: it has no default")
    message = str(first["msg"]).removeprefix("Value error, ").partition(", unable to ")[0]
    if kind in {"tuple_type", "list_type"}:
        message = "it is a list, in [brackets]"
    elif kind == "model_type" and block is not schema:
        message = _shape_of(block, path)
    elif kind == "literal_error":
        allowed = str(first["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        message += nearest(first["input"], allowed)
    if kind == "value_error" and isinstance(first["input"], dict):
        return UserError(f"{path or 'config'}: {message}")
    return UserError(f"{path or 'config'}: {given} is not allowed: {message}")


def _shape_of(block: type[BaseModel], path: str) -> str:
    """What a block looks like."""
    if issubclass(block, Component):
        return "it is a name, or a block of a name and its options"
    keys = f"it is a block of keys: {', '.join(sorted(block.model_fields))}"
    names = get_args(block.model_fields["name"].annotation) if "name" in block.model_fields else ()
    return f"{keys}; {path}.name is one of: {', '.join(names)}" if names else keys


def _block_at(schema: type[BaseModel], location: Sequence[Any]) -> type[BaseModel]:
    """The block that ``location`` lies in, as far as blocks go."""
    for part in location:
        field = schema.model_fields.get(str(part))
        inner = field.annotation if field else None
        inner = get_args(inner)[-1] if get_origin(inner) is dict else inner
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        schema = inner
    return schema
