"""The baseline U-Net, its cost, and the padding around any network."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from seglab.core.config import Model
from seglab.core.errors import UserError
from seglab.core.registry import MODELS
from seglab.models.build import Padded, build_model, count_parameters, gflops_per_image
from seglab.models.unet import Residual


def unet(
    in_channels: int = 1, hw: tuple[int, int] = (32, 32), pretrained: bool = True, **options: object
) -> nn.Module:
    return build_model(Model(name="unet", **options), in_channels, hw, pretrained=pretrained)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "batch", "up": "transpose", "dropout": 0.1},
        {"norm": "instance", "up": "bilinear"},
        {"norm": "group", "up": "nearest"},
        {"norm": "none"},
        {"residual": True},
        {"activation": "leaky_relu"},
    ],
)
def test_output_is_as_large_as_the_input_and_every_weight_learns(
    options: dict[str, object],
) -> None:
    network = unet(in_channels=3, base_channels=4, depth=2, **{"norm": "instance", **options})
    logits = network(torch.randn(2, 3, 32, 24))
    logits.square().mean().backward()
    assert logits.shape == (2, 1, 32, 24)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    kinds = {type(part) for part in network.modules()}
    assert (nn.LeakyReLU in kinds) == ("activation" in options)


def test_deep_supervision_predicts_every_scale_but_the_lowest_in_training() -> None:
    network = unet(base_channels=4, depth=3, norm="instance", deep_supervision=True, pad=False)
    coarse: list[torch.Tensor] = []
    for head in network.coarse_heads:
        head.register_forward_hook(lambda *seen: coarse.append(seen[-1].detach()))
    image = torch.randn(2, 1, 32, 32)
    logits = network(image)
    assert logits.shape == (2, 3, 32, 32)
    assert [one.shape[-1] for one in coarse] == [16, 8]
    for k, small in enumerate(coarse, start=1):
        enlarged = cv2.resize(small[0, 0].numpy(), (32, 32), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(logits[0, k].detach(), enlarged, atol=1e-5)
    torch.testing.assert_close(logits[:, :1], network.eval()(image))
    logits.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_residual_block_adds_its_shortcut_before_the_last_activation() -> None:
    block = Residual(3, 5, "instance", "leaky_relu")
    x = torch.randn(2, 3, 8, 8)
    nn.init.zeros_(block.convolutions[3].weight)  # instance norm makes 0 of a constant
    expected = nn.functional.leaky_relu(
        nn.functional.conv2d(x, block.shortcut.weight, block.shortcut.bias)
    )
    torch.testing.assert_close(block(x), expected)


def test_parameters_of_the_paper() -> None:
    """Base 64 and four halvings without normalisation: its weights and biases, layer by layer."""
    assert count_parameters(unet(base_channels=64, norm="none")) == 31_030_593


def test_flops_are_those_counted_by_hand_and_counting_changes_nothing() -> None:
    """Depth 1, base 1, 8x8: multiply–adds of each convolution, times two."""
    macs = [
        64 * 9 * (1 + 1),  # encoder at 8x8: 1 to 1 to 1
        16 * 9 * (2 + 4),  # encoder at 4x4: 1 to 2 to 2
        64 * 2,  # transposed, 2 to 1: each output pixel is met by one kernel element
        64 * 9 * (2 + 1),  # decoder: 2 to 1 to 1
        64,  # head
    ]
    network = unet(base_channels=1, depth=1, dropout=0.5)
    before, random_state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    assert gflops_per_image(network, 1, (8, 8)) == pytest.approx(2 * sum(macs) / 1e9)
    assert network.training
    assert torch.equal(random_state, torch.get_rng_state())
    for key, value in network.state_dict().items():
        assert torch.equal(before[key], value)
        assert value.device.type == "cpu"


def test_padding_takes_any_size_is_background_and_cropped_back_in_place() -> None:
    assert unet(hw=(5, 47), base_channels=2)(torch.randn(1, 1, 5, 47)).shape == (1, 1, 5, 47)

    class Seen(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.image = image
            return image

    seen = Seen()
    image = torch.randn(1, 1, 13, 16)
    assert torch.equal(Padded(seen, stride=8)(image), image)
    assert seen.image.shape == (1, 1, 16, 16)
    assert (seen.image[..., 0, :] == -2).all()
    assert (seen.image[..., -2:, :] == -2).all()


def test_without_padding_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.image_size: .* 100x96: .*; model\.pad: true"):
        unet(hw=(100, 96), pad=False)


def test_a_plain_module_is_checked_by_what_it_does() -> None:
    @MODELS.register("halving")
    def halving(in_channels: int) -> nn.Module:
        """Halves the image, which no segmenter may."""
        return nn.Conv2d(in_channels, 1, kernel_size=2, stride=2)

    with pytest.raises(UserError, match=r"its output is \(1, 1, 16, 16\)"):
        build_model(Model(name="halving"), 1, (32, 32))
