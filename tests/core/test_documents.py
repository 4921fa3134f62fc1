"""Reading experiment files, tables, and configs that earlier versions logged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglab.core.documents import (
    as_of_today,
    json_text,
    merge,
    parse_overrides,
    parse_yaml,
    read_document,
    read_rows,
)
from seglab.core.errors import UserError
from seglab.core.study import build_run


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
    with pytest.raises(UserError, match=rf"^{path}: base: .*other\.yaml: no such file"):
        read_document(path)
    write(tmp_path, others="{}")
    with pytest.raises(UserError, match=r"\(did you mean 'others\.yaml'\?\)"):
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
        ("a: " + "x" * 1_000_001, "larger than"),
        ("{[1]: 2}", "x"),
        ("[" * 190_000, "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("a: 2020-99-99", "not valid YAML"),
        ("a: " + "9" * 90_000, "not valid YAML"),
    ],
)
def test_what_is_not_an_experiment_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_yaml(text, "x")


@pytest.mark.parametrize("name", ["missing.yaml", ".", "loop.yaml", "latin.yaml"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "latin.yaml").write_bytes("a: Müller".encode("latin-1"))
    with pytest.raises(UserError, match=str(tmp_path)):
        read_document(tmp_path / name)


def test_overrides_nest_and_read_yaml() -> None:
    assert parse_overrides(["a.b=1", "a.c=[x, 2]", "d=null"]) == {
        "a": {"b": 1, "c": ["x", 2]},
        "d": None,
    }


@pytest.mark.parametrize("name", ["model=unet", "model.name=unet"])
def test_an_option_before_the_name_of_its_component_is_kept(name: str) -> None:
    assert parse_overrides(["model.depth=2", name]) == {"model": {"name": "unet", "depth": 2}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *(([argument], r"key\.sub=value") for argument in ("a", "=1", "a..b=1", ".a=1")),
        (["seeds=[0,", "1]"], "put all of it in quotes"),  # a list that the shell took apart
    ],
)
def test_an_override_that_is_none_is_named(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_overrides(arguments)


def test_a_folder_is_answered_with_its_files(tmp_path: Path) -> None:
    write(tmp_path, one="{}", two="{}")
    with pytest.raises(UserError, match=r": a folder, not a file; it holds one\.yaml, two\.yaml$"):
        read_document(tmp_path)


def test_numbers_that_do_not_exist_are_null_in_json() -> None:
    values = {"a": [math.nan, (1.5, -math.inf)], "b": {"c": math.inf, "d": 0.0}, "e": Path("f")}
    assert json.loads(json_text(values)) == {
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


def test_cells_beyond_the_header_and_nul_are_data(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n1,2,3\n\n4\n\0,5\n")
    assert list(read_rows(path)) == [{"a": "1", "b": "2"}, {"a": "4"}, {"a": "\0", "b": "5"}]


LOGGED: list[dict[str, Any]] = [
    {"name": "none"},
    {"name": "default", "strength": 1.0},
    {"name": "rotate", "limit_deg": 15, "p": 0.8},
    {"name": "scale", "limit": 0.15, "p": 0.8},
    {"name": "affine", "rotate_deg": 15, "scale": 0.15, "shift": 0.04, "p": 0.8},
    {"name": "elastic", "alpha": 250.0, "sigma": 10.0, "edges": "free", "p": 0.5},
    {"name": "grid", "steps": 5, "limit": 0.2, "p": 0.5},
    {"name": "brightness_contrast", "brightness": 0.1, "contrast": 0.2, "p": 0.5},
    {"name": "gamma", "limit": 1.4, "p": 0.5},
    {"name": "noise", "sd": 0.05, "p": 0.5},
    {"name": "blur", "sigma": 1.0, "p": 0.5},
    {"name": "bias_field", "strength": 0.15, "p": 0.5},
    {"name": "dropout", "holes": 8, "size": 0.12, "p": 0.5},
]


def logged(augment: dict[str, Any], **train: object) -> dict[str, Any]:
    data = {"source": "brats-h5", "root": "x"}
    return {"name": "old", "data": data, "augment": augment, "train": {"epochs": 3, **train}}


@pytest.mark.parametrize("augment", LOGGED, ids=lambda block: str(block["name"]))
def test_every_augmentation_that_there_was_loads(augment: dict[str, Any]) -> None:
    config = build_run(as_of_today(logged(augment)))
    assert config.train.keep == "best"
    assert config.data.normalise_scope == "slice"
    again = build_run(as_of_today(config.to_dict()))
    assert again == config


def test_sizes_in_pixels_of_the_baseline_become_millimetres() -> None:
    config = build_run(as_of_today(logged(LOGGED[5])))
    assert config.augment.options == {
        "sd_mm": pytest.approx(4.0),  # 250 / (15 · 10) px of 2.4 mm
        "sigma_mm": pytest.approx(24.0),
        "p": 0.5,
    }


def test_a_config_of_today_is_left_as_it_is() -> None:
    document = logged({"name": "mirror", "p": 0.5}, keep="last")
    assert as_of_today(document) == document
