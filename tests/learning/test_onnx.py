"""The ONNX file is the network, for any batch, and says how to feed it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.data.open import StudyData
from seglab.learning.bundle import ModelBundle, ModelCard, as_volume, make_card
from seglab.learning.device import Compute
from seglab.learning.inference import Predictor
from seglab.learning.onnx import check_onnx, export_onnx
from seglab.learning.operating_point import OperatingPoint
from seglab.models.build import build_model
from tests.learning.bundles import levels, make_bundle, stack
from tests.learning.trainers import Build

POINT = OperatingPoint(0.4, 10, fill_holes=True, mirror=True)


def make(config: RunConfig, data: StudyData, bias: float = 0.0) -> ModelBundle:
    torch.manual_seed(1)
    card = make_card(config, data.cache, data.split.train, "bf16", "0" * 32, POINT)
    network = build_model(card.model, 1, card.shape)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
        list(network.parameters())[-1].add_(bias)
    return ModelBundle(card, Predictor(network, Compute(torch.device("cpu"), "fp32", 1), 0))


def test_without_its_packages_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"no package onnxscript: .*the extra 'onnx'"):
        export_onnx(make_bundle("flair"), tmp_path / "model.onnx")


def test_the_file_is_the_network_and_another_is_told_apart(
    small_config: Build, data: StudyData, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    bundle = make(small_config(), data)
    export_onnx(bundle, path)
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]

    check = check_onnx(bundle, path, data.cache, data.split.val)
    assert check.equal
    assert 0 < check.slices <= 512
    assert check.pixels == check.slices * np.prod(bundle.card.shape)
    other = check_onnx(make(small_config(), data, bias=0.01), path, data.cache, data.split.val)
    assert not other.equal
    assert other.largest_gap == pytest.approx(0.01, rel=0.01)

    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", 1, *bundle.card.shape]
    network = bundle.predictor.network.eval()
    for batch in (1, 3):
        image = torch.randn(batch, 1, *bundle.card.shape)
        (logits,) = session.run(None, {"image": image.numpy()})
        axis = 2 + bundle.card.mirror_axis
        with torch.inference_mode():
            expected = (network(image) + network(image.flip(axis)).flip(axis)) / 2
        assert np.allclose(logits, expected.numpy(), atol=1e-4)

    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["seglab.operating_point"]) == vars(POINT)
    assert ModelCard.from_json(json.loads(about["seglab.model"])) == bundle.card
    assert "0.4" in about["seglab.output"]
    assert bundle.card.settings.normalise in about["seglab.input"]


def test_the_metadata_say_how_to_rebuild_the_input(tmp_path: Path) -> None:
    """From the raw slices of two modalities, by the file only, to what the bundle predicts."""
    path = tmp_path / "model.onnx"
    bundle = make_bundle("t1ce", "flair", context=1)
    export_onnx(bundle, path)
    session = onnxruntime.InferenceSession(path)
    about = session.get_modelmeta().custom_metadata_map
    order, ranges = json.loads(about["seglab.channels"]), json.loads(about["seglab.ranges"])
    assert order == ["t1ce-1", "t1ce", "t1ce+1", "flair-1", "flair", "flair+1"]
    assert ranges == {"t1ce": [-3, 8], "flair": [-3, 5]}  # T1ce is not clipped so soon
    raw = dict(zip(("t1ce", "flair"), stack(2), strict=True))
    channels = []
    for name, step in (re.fullmatch(r"(\w+?)([+-]\d)?", each).groups() for each in order):
        q = levels(raw[name], *ranges[name])
        channels.append(q[np.clip(np.arange(len(q)) + int(step or 0), 0, len(q) - 1)])
    image = ((np.stack(channels, axis=1) / 255 - 0.5) / 0.25).astype(np.float32)
    (logits,) = session.run(None, {"image": image})
    given = as_volume(np.stack(list(raw.values())), tuple(raw), shared_scale=True)
    expected = bundle.segment(given).probability
    assert np.allclose(1 / (1 + np.exp(-logits[:, 0])), expected, atol=1e-5)
