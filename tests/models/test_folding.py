"""A folded network computes the same, and the network itself is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import seglab.models  # noqa: F401  (registers)
from seglab.core.registry import MODELS
from seglab.models.folding import fold_normalisation

OPTIONS: dict[str, dict[str, object]] = {
    "unet": {"base_channels": 4, "depth": 2},
    "smp-unet": {"encoder": "resnet18", "encoder_weights": "none"},
}


def trained(name: str) -> nn.Module:
    """A network whose running statistics and factors are no longer 0 and 1."""
    torch.manual_seed(0)
    network = MODELS.build(name, OPTIONS[name], 1)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter) * parameter.abs().mean()
    for _ in range(3):
        network(torch.randn(4, 1, 64, 64) * 3 + 1)
    return network.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_those_of_the_network(name: str) -> None:
    network = trained(name)
    before = copy.deepcopy(network.state_dict())
    folded = fold_normalisation(network)
    assert network.training
    assert not folded.training
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = network.eval()(image)
        torch.testing.assert_close(folded(image), expected, rtol=1e-4, atol=1e-4)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_every_normalisation_of_the_unet_is_folded() -> None:
    folded = fold_normalisation(trained("unet"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_what_has_no_batch_normalisation_is_only_copied() -> None:
    network = MODELS.build("unet", {"base_channels": 4, "depth": 2, "norm": "group"}, 1)
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(fold_normalisation(network)(image), network.eval()(image))
