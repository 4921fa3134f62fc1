"""From configuration to a network that is known to take the images it will get, and its cost."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seglab.core.config import Model
from seglab.core.errors import UserError, first_line

IMAGE_MEAN, IMAGE_SD = 0.5, 0.25
"""Network input is (q/255 - IMAGE_MEAN) / IMAGE_SD of the cached uint8 q: -2 to 2."""
BACKGROUND = -IMAGE_MEAN / IMAGE_SD
"""Network input where the cache has 0."""


class Network(nn.Module):
    """Maps an image (B,C,H,W) float to logits (B,1,H,W).

    A registered builder may return any ``nn.Module`` of that shape; deriving from this class
    lets it declare which sizes it takes, for :class:`Padded`.
    """

    stride: int = 1
    """Height and width must be multiples of this many pixels."""
    min_side: int = 1
    """Height and width must be at least so many pixels."""
    weights: str = "none"
    """Where its initial weights came from; ``none`` is random."""


class Padded(Network):
    """Pads the image to a size that ``network`` takes, and crops the logits back.

    The padding has the background's value and is shared between the two sides.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.weights = network.weights

    def forward(self, image: Tensor) -> Tensor:
        """Image (B,C,H,W) to logits (B,1,H,W)."""
        (above, below), (left, right) = (self._padding(side) for side in image.shape[-2:])
        if above + below + left + right:
            image = F.pad(image, (left, right, above, below), value=BACKGROUND)
        logits: Tensor = self.network(image)
        height, width = logits.shape[-2:]
        return logits[..., above : height - below, left : width - right]

    def _padding(self, side: int) -> tuple[int, int]:
        stride = self.network.stride
        missing = -(-max(side, self.network.min_side) // stride) * stride - side
        return missing // 2, missing - missing // 2


def pad_if(wanted: bool, network: Network) -> Network:
    """Wrap ``network`` in :class:`Padded` unless the option ``pad`` is off."""
    return Padded(network) if wanted else network


def build_model(
    config: Model, in_channels: int, image_hw: tuple[int, int], *, pretrained: bool = True
) -> nn.Module:
    """Build the network that ``config`` names.

    Args:
        config: name and options.
        in_channels: channels of the image: modalities × (2·context + 1).
        image_hw: height and width of the images, in pixels.
        pretrained: False leaves out the initial weights, for a checkpoint that is loaded next.

    Returns:
        A module from image (B,in_channels,H,W) float to logits (B,1,H,W).

    Raises:
        UserError: unknown encoder, weights that cannot be had, or an image size that the
            network does not take.
    """
    options = config.options
    if not pretrained and "encoder_weights" in options:
        options["encoder_weights"] = "none"
    network: nn.Module = config.registry.build(config.name, options, in_channels)
    if reason := _refusal(network, in_channels, image_hw):
        height, width = image_hw
        advice = "" if isinstance(network, Padded) else "; model.pad: true may help"
        raise UserError(
            f"data.image_size: model '{config.name}' does not take images of {height}x{width}: "
            f"{reason}{advice}"
        )
    return network


def _refusal(network: nn.Module, in_channels: int, hw: tuple[int, int]) -> str | None:
    """Why images of ``hw`` pixels do not give logits of ``hw`` pixels; None if they do."""
    try:
        shape = tuple(_shape_pass(network, in_channels, hw).shape)
    except NotImplementedError:  # an operation without a shape rule proves nothing
        return None
    except (RuntimeError, AssertionError, ValueError) as error:
        return first_line(error)
    return None if shape == (1, 1, *hw) else f"its output is {shape}, not {(1, 1, *hw)}"


def check_batch(
    name: str, network: nn.Module, in_channels: int, hw: tuple[int, int], smallest: int
) -> None:
    """Make sure that ``network`` trains on batches as small as ``smallest`` images.

    PAN, DeepLab and UPerNet normalise a map pooled to one pixel over the batch, which one
    image alone does not allow.

    Raises:
        UserError: it does not; names ``train.batch_size``.
    """
    if smallest > 1:
        return
    try:
        _shape_pass(network, in_channels, hw, training=True)
    except NotImplementedError:
        return
    except ValueError as error:
        raise UserError(
            f"train.batch_size: model '{name}' cannot train on one image at a time "
            f"({str(error).partition(',')[0]}): give 2 or more, and train.samples_per_epoch too"
        ) from error


def loaded_weights(network: nn.Module) -> str:
    """Tell where the initial weights came from; ``none`` is random."""
    return network.weights if isinstance(network, Network) else "none"


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def gflops_per_image(network: nn.Module, in_channels: int, hw: tuple[int, int]) -> float:
    """Count the floating-point operations of one forward pass of one image, in 1e9.

    A multiply–add counts as two. Convolutions, matrix products and attention are
    counted, element-wise operations are not; padding is. A training step costs about
    three times as much.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which takes a while

    with FlopCounterMode(display=False) as counter:
        _shape_pass(network, in_channels, hw)
    return float(counter.get_total_flops()) / 1e9


def _shape_pass(
    network: nn.Module, in_channels: int, hw: tuple[int, int], *, training: bool = False
) -> Tensor:
    """Pass one image through a copy of ``network`` that computes shapes, not values."""
    shapes_only = copy.deepcopy(network).to("meta").train(training)
    with torch.no_grad():
        logits: Tensor = shapes_only(torch.empty(1, in_channels, *hw, device="meta"))
    return logits
