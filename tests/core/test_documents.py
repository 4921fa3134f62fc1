"""Reading experiment files."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglab.core.documents import (
    json_text,
    merge,
    nest,
    parse_json,
    parse_overrides,
    parse_yaml,
    read_document,
)
from seglab.core.errors import UserError


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


def test_a_child_is_laid_over_its_base(tmp_path: Path) -> None:
    path = write(tmp_path, child="base: parent.yaml\na: {x: 2}", parent="a: {x: 1, y: 1}\nb: 1")
    assert read_document(path) == {"a": {"x": 2, "y": 1}, "b": 1}


def test_a_circle_of_bases_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, a="base: b.yaml", b="base: a.yaml")
    with pytest.raises(UserError, match=r"a\.yaml -> b\.yaml -> a\.yaml"):
        read_document(path)


def test_a_base_that_is_absent_is_named_with_the_file_that_asks_for_it(tmp_path: Path) -> None:
    path = write(tmp_path, child="base: other.yaml")
    with pytest.raises(UserError, match=rf"^{path}: base: .*other\.yaml: no such file$"):
        read_document(path)
    path.write_text(f"base: {'x' * 5000}")
    with pytest.raises(UserError, match=r"child\.yaml: base: .* cannot be read: "):
        read_document(path)


def test_another_component_replaces_the_options_of_the_first() -> None:
    lower = {"loss": {"name": "bce", "pos_weight": 3}}
    assert merge(lower, {"loss": {"name": "dice"}}) == {"loss": {"name": "dice"}}
    assert merge(lower, {"loss": "dice"}) == {"loss": {"name": "dice"}}
    assert merge(lower, {"loss": {"pos_weight": 2}}) == {"loss": {"name": "bce", "pos_weight": 2}}
    assert merge({"loss": "bce"}, {"loss": {"pos_weight": 2}}) == merge(
        lower, {"loss": {"pos_weight": 2}}
    )
    assert merge({"optim": {"name": "adam", "lr": 1}}, {"optim": {"name": "sgd"}}) == {
        "optim": {"name": "sgd", "lr": 1}
    }


def test_numbers_are_read_as_people_write_them() -> None:
    assert parse_yaml("[1e-3, 2.5E4, 1, 1.0, '1e-3']", "x") == [1e-3, 2.5e4, 1, 1.0, "1e-3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\nb: *x", "aliases"),
        ("a: 1\na: 2", "'a' is given twice"),
        ("a: [", "line"),
        ("a: !!python/object:os.system {}", "constructor"),
        ("[" * 50 + "]" * 50, "deeper"),
        ("a: " + "x" * 1_000_001, "larger than"),
        ("{[1]: 2}", "x"),
        ("[" * 190_000, "x"),
        ("a: !!int ''", "line 1: '' is not of the kind 'int'"),
        ("a: !!float ''", "not of the kind 'float'"),
        ("a: !!bool x", "not of the kind 'bool'"),
        ("a: !!timestamp x", "not of the kind 'timestamp'"),
        ("a: 2020-99-99", "not of the kind 'timestamp'"),
        ("a: !!set {b}", "constructor"),
        ("a: !!binary aGk=", "constructor"),
        ("a: 9223372036854775808", "beyond"),
        ("a: 0x" + "f" * 90_000, "a number of 90002 characters"),
        ("a: " + "1:" * 90_000 + "1", "a number of 180001 characters"),
        ("a: " + "9" * 90_000, "a number of 90000 characters"),
        (r'a: "b\0c"', "NUL"),
        (r'a: "\ud800"', "half a character"),
    ],
)
def test_what_is_not_an_experiment_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_yaml(text, "x")


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    layers = ["a0: &a0 [lol]"] + [f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 12)]
    with pytest.raises(UserError, match="aliases"):
        parse_yaml("\n".join(layers), "bomb")


@pytest.mark.parametrize("name", ["missing.yaml", ".", "pipe.yaml", "loop.yaml", "latin.yaml"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "latin.yaml").write_bytes("a: Müller".encode("latin-1"))
    with pytest.raises(UserError, match=str(tmp_path)):
        read_document(tmp_path / name)


def test_overrides_nest_and_read_yaml() -> None:
    assert parse_overrides(["a.b=1", "a.c=[x, 2]", "d=null"]) == {
        "a": {"b": 1, "c": ["x", 2]},
        "d": None,
    }


@pytest.mark.parametrize("argument", ["a", "=1", "a..b=1", ".a=1"])
def test_an_override_without_key_or_value_is_named(argument: str) -> None:
    with pytest.raises(UserError, match=r"key\.sub=value"):
        parse_overrides([argument])


def test_a_base_that_never_ends_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="/dev/zero: not a file"):
        read_document(write(tmp_path, child="base: /dev/zero"))


def test_a_tower_of_bases_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path, **{f"f{i}": f"base: f{i + 1}.yaml" for i in range(50)})
    with pytest.raises(UserError, match="more than 20 files"):
        read_document(first)


@pytest.mark.parametrize("key", ["seed", "search.space", "model"])
def test_an_override_of_a_thousand_levels_is_refused(key: str) -> None:
    with pytest.raises(UserError, match="deeper than 20"):
        parse_overrides([f"{key}{'.a' * 1000}=1"])


@pytest.mark.parametrize("text", ["[" * 100_000, "", "{", '"\\x"', "9" * 5000])
def test_what_is_not_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_numbers_that_do_not_exist_are_null_in_json() -> None:
    values = {"a": [math.nan, (1.5, -math.inf)], "b": {"c": math.inf, "d": 0.0}, "e": Path("f")}
    assert parse_json(json_text(values)) == {
        "a": [None, [1.5, None]],
        "b": {"c": None, "d": 0.0},
        "e": "f",
    }


plain = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.sampled_from("abcd"), plain, max_size=4)


@given(documents)
def test_merging_with_nothing_changes_nothing(document: dict[str, Any]) -> None:
    assert merge(document, {}) == document
    assert merge({}, document) == document
    assert merge(document, document) == document


@given(documents, documents)
def test_what_is_laid_on_top_is_what_is_seen(lower: dict[str, Any], upper: dict[str, Any]) -> None:
    merged = merge(lower, upper)
    assert merged.keys() == lower.keys() | upper.keys()
    assert merge(merged, upper) == merged


@given(st.text(max_size=200))
def test_any_text_is_data_or_a_user_error(text: str) -> None:
    try:
        parse_yaml(text, "x")
    except UserError as error:
        assert str(error).startswith("x")  # noqa: PT017


def test_nesting_a_path() -> None:
    assert nest("a.b.c", 1) == {"a": {"b": {"c": 1}}}
