"""What holds for every augmentation that a YAML can name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError

from seglab.augment.transform import Augmenter
from seglab.core.registry import AUGMENTATIONS
from tests.augment.slices import Slices, apply, augmenter, brains, frame

OPTIONS = {"albumentations": {"transforms": [{"GridDistortion": {"p": 0.9}}, "RandomGamma"]}}
NAMES = [entry.name for entry in AUGMENTATIONS]


def of_name(name: str, channels: int = 1) -> Augmenter:
    return augmenter(name, frame(neighbours=channels), **OPTIONS.get(name, {}))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def same(one: Slices, other: Slices) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_repeats_and_keeps_shapes_grey_levels_background_and_binary_masks(name: str) -> None:
    slices = brains(12, channels=3)
    changed = apply(of_name(name, 3), slices)
    images, masks = changed
    assert images.shape == slices[0].shape
    assert masks.shape == slices[1].shape
    assert set(masks.unique().tolist()) <= {0, 1}
    assert torch.equal(images, images.round().clamp(0, 255))
    assert not images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert same(changed, apply(of_name(name, 3), slices))
    if name == "none":
        assert same(changed, slices)
    elif name not in {"mirror", "front_back", "flips"}:  # certain here
        assert not same(changed, apply(of_name(name, 3), slices, seed=4))
        assert not same(changed, apply(of_name(name, 3), slices, first=12))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("two_threads")
def test_batches_and_threads_do_not_change_the_bits(name: str) -> None:
    # Large enough for torch to share the work among threads.
    slices = brains(7, (120, 96), channels=3)
    given = augmenter(name, frame((120, 96), neighbours=3), **OPTIONS.get(name, {}))
    whole = apply(given, slices)
    torch.set_num_threads(1)
    parts = [(0, 1), (1, 5), (5, 7)]
    for start, end in parts:
        part = apply(given, tuple(each[start:end] for each in slices), first=start)
        assert same(part, tuple(each[start:end] for each in whole))


@pytest.mark.parametrize(
    ("name", "share"), [("mirror", 0.3), ("affine", 0.3), ("elastic", 0.3), ("noise", 0.3)]
)
def test_each_sample_has_the_probability_stated(name: str, share: float) -> None:
    slices = brains(600, (16, 16))
    new, _ = apply(augmenter(name, frame((16, 16), 15.0), p=share), slices)
    touched = (new != slices[0]).flatten(1).any(dim=1)
    assert float(touched.float().mean()) == pytest.approx(share, abs=0.06)


def test_strength_zero_leaves_only_the_mirror() -> None:
    images, masks = brains(30)
    new, _ = apply(augmenter("default", frame(), strength=0), (images, masks))
    for image, changed in zip(images, new, strict=True):
        assert min((changed - image).abs().max(), (changed - image.flip(1)).abs().max()) <= 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("affine", {"shift": 0.04}),
        ("elastic", {"alpha": 3.0}),
        ("mirror", {"p": 1.5}),
        ("none", {"p": 1.0}),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        AUGMENTATIONS.build(name, options, frame())


def test_registering_does_not_import_albumentations() -> None:
    code = "import seglab.augment, sys, os; print('albumentations' in sys.modules)"
    code += "; print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == ["False", "1"]
