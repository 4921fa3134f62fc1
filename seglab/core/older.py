"""Configs that earlier versions logged, in the names of today."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Block = Mapping[str, Any]
MM_PER_PX = 2.4
"""Sizes were in pixels of the cached slices: so many mm in those of the baseline."""


def as_of_today(document: Block) -> dict[str, Any]:
    """Give a config that a run logged, with all its options, the keys and names of today.

    Before ``train.keep`` was a key, the weights of the best epoch were kept, and slice files
    were normalised slice by slice.
    """
    train, augment = document.get("train") or {}, document.get("augment")
    data = document.get("data") or {}
    if "keep" in train:
        return dict(document)
    found = {**document, "train": {**train, "keep": "best"}}
    if data.get("source") == "brats-h5" and data.get("normalise_scope", "auto") == "auto":
        found["data"] = {**data, "normalise_scope": "slice"}
    if isinstance(augment, Mapping) and augment.get("name") in _AUGMENTATIONS:
        found["augment"] = _AUGMENTATIONS[augment["name"]](augment)
    return found


def _affine(given: Block) -> Block:
    mm = 200 * given["shift"]  # of a frame that is cropped to the brain
    return {**{key: given[key] for key in ("name", "rotate_deg", "scale", "p")}, "shift_mm": mm}


def _elastic(given: Block) -> Block:
    sd_px = given["alpha"] / (15 * given["sigma"])
    mm = {"sd_mm": MM_PER_PX * sd_px, "sigma_mm": MM_PER_PX * given["sigma"]}
    return {"name": "elastic", "p": given["p"], **mm}


def _dropout(given: Block) -> Block:
    side = [given["size"] / 2, given["size"]]
    sides = {"hole_height_range": side, "hole_width_range": side}
    options = {"num_holes_range": [1, given["holes"]], "p": given["p"], **sides}
    return {"name": "albumentations", "transforms": [{"CoarseDropout": options}]}


def _grid(given: Block) -> Block:
    limits = [-given["limit"], given["limit"]]
    options = {"num_steps": given["steps"], "distort_limit": limits, "p": given["p"]}
    return {"name": "albumentations", "transforms": [{"GridDistortion": options}]}


def _only(name: str, new: str, old: str, **rest: float) -> Callable[[Block], Block]:
    return lambda given: {"name": name, new: given[old], "p": given["p"], **rest}


_AUGMENTATIONS: dict[str, Callable[[Block], Block]] = {
    "affine": _affine,
    "rotate": _only("affine", "rotate_deg", "limit_deg", scale=0, shift_mm=0),
    "scale": _only("affine", "scale", "limit", rotate_deg=0, shift_mm=0),
    "elastic": _elastic,
    "brightness_contrast": lambda given: {**given, "name": "tone", "gamma": 1},
    "gamma": _only("tone", "gamma", "limit", brightness=0, contrast=0),
    "blur": lambda given: _only("blur", "sigma_mm", "sigma")(
        {**given, "sigma": MM_PER_PX * given["sigma"]}
    ),
    "dropout": _dropout,
    "grid": _grid,
}
