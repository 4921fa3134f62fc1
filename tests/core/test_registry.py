"""Registries: one decorated function is a name with checked options."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from seglab.core.errors import UserError
from seglab.core.registry import Registry


@pytest.fixture
def shapes() -> Registry[tuple[int, float, str]]:
    registry: Registry[tuple[int, float, str]] = Registry("shape")

    @registry.register("box")
    def box(
        sides: int, *, size: Annotated[float, Field(gt=0)] = 2.0, fill: Literal["yes", "no"] = "no"
    ) -> tuple[int, float, str]:
        """A box.

        More about boxes.
        """
        return sides, size, fill

    return registry


def test_context_comes_from_the_harness_and_options_from_the_file(
    shapes: Registry[tuple[int, float, str]],
) -> None:
    assert shapes.build("box", {"size": 3}, 4) == (4, 3.0, "no")
    assert shapes.options("box", {}) == {"size": 2.0, "fill": "no"}
    assert [(entry.name, entry.summary) for entry in shapes] == [("box", "A box.")]
    assert "box" in shapes


def test_the_options_of_a_class_are_those_it_is_made_with() -> None:
    registry: Registry[object] = Registry("shape")

    @registry.register("ball")
    class Ball:
        """A ball."""

        def __init__(self, sides: int, *, size: Annotated[float, Field(gt=0)] = 2.0) -> None:
            self.made = sides, size

    assert vars(registry.build("ball", {"size": 3}, 0)) == {"made": (0, 3.0)}
    with pytest.raises(ValidationError, match="size"):
        registry.options("ball", {"size": 0})


def test_an_unknown_name_is_answered_with_the_nearest(
    shapes: Registry[tuple[int, float, str]],
) -> None:
    with pytest.raises(UserError, match=r"unknown shape 'bix' \(did you mean 'box'\?\).*: box"):
        shapes.build("bix", {})


def test_a_retired_name_is_answered_with_the_reason(
    shapes: Registry[tuple[int, float, str]],
) -> None:
    shapes.retire("ball", "it rolled away")
    assert "ball" not in shapes
    with pytest.raises(UserError, match=r"shape 'ball' is gone: it rolled away; .*: box"):
        shapes.options("ball", {})


@pytest.mark.parametrize("options", [{"size": 0}, {"size": "big"}, {"fill": "half"}, {"sise": 1}])
def test_options_are_checked_by_the_signature(
    shapes: Registry[tuple[int, float, str]], options: dict[str, object]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        shapes.build("box", options, 4)


def test_a_name_belongs_to_one_function(shapes: Registry[tuple[int, float, str]]) -> None:
    def other() -> tuple[int, float, str]:
        """Another."""
        return 0, 0.0, ""

    with pytest.raises(ValueError, match="already registered"):
        shapes.register("box")(other)


def test_a_builder_without_help_is_refused(shapes: Registry[tuple[int, float, str]]) -> None:
    with pytest.raises(ValueError, match="docstring"):
        shapes.register("circle")(lambda: (0, 0.0, ""))
