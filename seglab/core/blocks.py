"""What the parts of a configuration are made of: frozen blocks, and named components."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seglab.core.errors import UserError
from seglab.core.explain import explain
from seglab.core.registry import Registry

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


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
        """YAML reads ``yes`` as true, which Python takes for 1."""
        for key, value in given.items() if isinstance(given, dict) else ():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field and bool not in _types(field.annotation):
                raise ValueError(f"{key}: {str(value).lower()} is not a number or a name")
        return given


def _types(annotation: Any) -> set[Any]:
    """The plain types that an annotation allows, unions and containers opened."""
    inner = {part for argument in get_args(annotation) for part in _types(argument)}
    return inner or {annotation}


class Component(BaseModel):
    """A registered name with its options; a bare string is a name with defaults."""

    model_config = ConfigDict(extra="allow", frozen=True)
    registry: ClassVar[Registry[Any]]
    default: ClassVar[str]
    """Taken where only options are given."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"name": given}
        if not isinstance(given, dict):
            return given
        name, block = str(given.get("name", cls.default)), cls.__name__.lower()
        options = {key: value for key, value in given.items() if key != "name"}
        try:
            return {"name": name, **cls.registry.options(name, options)}
        except ValidationError as error:
            raise explain(error, cls.registry[name].options, f"{block}.") from None
        except UserError as error:
            raise UserError(f"{block}.name: {error}") from None

    @property
    def options(self) -> dict[str, Any]:
        """The validated options, defaults filled in."""
        return dict(self.model_extra or {})

    def build(self, *context: Any) -> Any:
        """Build the component with the context its registry asks for."""
        return self.registry.build(self.name, self.options, *context)
