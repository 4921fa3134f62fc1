"""The ONNX file is the network, for any batch, and says how to feed it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from seglab.core.config import RunConfig
from seglab.learning.device import Compute
from seglab.learning.inference import Predictor
from seglab.learning.onnx_model import check_onnx, export_onnx
from seglab.learning.operating_point import OperatingPoint
from seglab.learning.segmenter import Recipe, Segmenter
from seglab.models import build_model
from seglab.studies.data import StudyData, open_data
from seglab.studies.recipe import make_recipe

Build = Callable[..., RunConfig]
POINT = OperatingPoint(0.4, 10, fill_holes=True, mirror=True)


@pytest.fixture
def data(small_config: Build) -> StudyData:
    return open_data(small_config())


def make(config: RunConfig, data: StudyData, bias: float = 0.0) -> Segmenter:
    torch.manual_seed(1)
    recipe = make_recipe(config, data, "bf16", "0" * 32, POINT)
    network = build_model(recipe.model, 1, recipe.shape)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
        list(network.parameters())[-1].add_(bias)
    return Segmenter(recipe, Predictor(network, Compute(torch.device("cpu"), "fp32", 1), 0))


def test_the_file_is_the_network(small_config: Build, data: StudyData, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    segmenter = make(small_config(), data)
    export_onnx(segmenter, path)
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]

    check = check_onnx(segmenter, path, data.cache, data.split.val)
    assert check.equal
    assert 0 < check.slices <= 512
    assert check.pixels == check.slices * np.prod(segmenter.recipe.shape)

    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", 1, *segmenter.recipe.shape]
    network = segmenter.predictor.network.eval()
    for batch in (1, 3):
        image = torch.randn(batch, 1, *segmenter.recipe.shape)
        (logits,) = session.run(None, {"image": image.numpy()})
        axis = 2 + segmenter.recipe.mirror_axis
        with torch.inference_mode():
            expected = (network(image) + network(image.flip(axis)).flip(axis)) / 2
        assert np.allclose(logits, expected.numpy(), atol=1e-4)

    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["seglab.operating_point"]) == POINT.to_dict()
    assert Recipe.from_json(json.loads(about["seglab.recipe"])) == segmenter.recipe
    assert "0.4" in about["seglab.output"]
    assert segmenter.recipe.settings.normalise in about["seglab.input"]


def test_another_network_is_told_apart(
    small_config: Build, data: StudyData, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(make(small_config(), data, bias=0.01), path)
    check = check_onnx(make(small_config(), data), path, data.cache, data.split.val)
    assert not check.equal
    assert check.largest_gap == pytest.approx(0.01, rel=0.01)


def test_nothing_compared_is_not_equal(
    small_config: Build, data: StudyData, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    segmenter = make(small_config(), data)
    export_onnx(segmenter, path)
    for name in data.split.val:
        data.cache.row_brain_px[data.cache.by_id[name].rows] = 0
    assert not check_onnx(segmenter, path, data.cache, data.split.val).equal
