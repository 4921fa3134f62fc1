"""From configuration to a network that is known to take the images it will get, and its cost."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seglab.core.config import Model
from seglab.core.errors import UserError, first_line

IMAGE_MEAN, IMAGE_SD = 0.5, 0.25
"""Network input is (q/255 - IMAGE_MEAN) / IMAGE_SD of the cached uint8 q: -2 to 2."""
BACKGROUND = -IMAGE_MEAN / IMAGE_SD  # network input where the cache has 0


class Padded(nn.Module):
    """Pads the image to multiples of ``stride`` px, at least ``min_side``; crops the logits back.

    The padding has the background's value and is shared between the two sides.
    """

    def __init__(self, network: nn.Module, stride: int, min_side: int = 1) -> None:
        super().__init__()
        self.network, self.stride, self.min_side = network, stride, min_side

    def forward(self, image: Tensor) -> Tensor:
        """Image (B,C,H,W) to logits (B,1,H,W)."""
        (above, below), (left, right) = (self._padding(side) for side in image.shape[-2:])
        if above + below + left + right:
            image = F.pad(image, (left, right, above, below), value=BACKGROUND)
        logits: Tensor = self.network(image)
        height, width = logits.shape[-2:]
        return logits[..., above : height - below, left : width - right]

    def _padding(self, side: int) -> tuple[int, int]:
        missing = -(-max(side, self.min_side) // self.stride) * self.stride - side
        return missing // 2, missing - missing // 2


class Ensemble(nn.Module):
    """Averages the probabilities of its members."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B,C,H,W) to the logits (B,1,H,W) of the mean probability."""
        logits = torch.stack([member(image).float() for member in self.members])
        return torch.logsumexp(-F.softplus(-logits), 0) - torch.logsumexp(-F.softplus(logits), 0)


def build_model(
    config: Model,
    in_channels: int,
    image_hw: tuple[int, int],
    *,
    smallest_batch: int = 2,
    pretrained: bool = True,
) -> nn.Module:
    """Build the network that ``config`` names: image (B,in_channels,H,W) to logits (B,1,H,W).

    ``smallest_batch`` is that of the training, in images. ``pretrained`` False leaves out the
    initial weights, for a checkpoint that is loaded next.

    Raises UserError for an unknown encoder, weights that cannot be had, an image size that the
    network does not take, or one image a batch where it normalises one pixel over the batch.
    """
    options = config.options
    if not pretrained and "encoder_weights" in options:
        options["encoder_weights"] = "none"
    network: nn.Module = config.registry.build(config.name, options, in_channels)
    if stride := getattr(network, "pad_to", None):
        network = Padded(network, stride)
    if reason := _refusal(network, in_channels, image_hw, training=False):
        height, width = image_hw
        advice = "" if isinstance(network, Padded) else "; model.pad: true may help"
        told = f"model '{config.name}' does not take images of {height}x{width}"
        raise UserError(f"data.image_size: {told}: {reason}{advice}")
    if smallest_batch == 1 and (reason := _refusal(network, in_channels, image_hw, training=True)):
        told = f"model '{config.name}' cannot train on one image at a time ({reason})"
        raise UserError(f"train.batch_size: {told}: 2 or more; train.samples_per_epoch too")
    return network


def _refusal(
    network: nn.Module, in_channels: int, hw: tuple[int, int], *, training: bool
) -> str | None:
    """Why one image of ``hw`` pixels does not give logits of ``hw`` pixels; None if it does."""
    try:
        logits = _shape_pass(network, in_channels, hw, training=training)
        shape = tuple((logits[:, :1] if training else logits).shape)  # others: deep supervision
    except NotImplementedError:  # an operation without a shape rule proves nothing
        return None
    except (RuntimeError, AssertionError, ValueError) as error:
        return first_line(error)
    return None if shape == (1, 1, *hw) else f"its output is {shape}, not {(1, 1, *hw)}"


def loaded_weights(network: nn.Module) -> str:
    """Tell where the initial weights came from; ``none`` is random."""
    sources = (getattr(part, "weights_source", None) for part in network.modules())
    return next((source for source in sources if source is not None), "none")


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def gflops_per_image(network: nn.Module, in_channels: int, hw: tuple[int, int]) -> float:
    """Count the floating-point operations of one forward pass of one image, in 1e9.

    A multiply–add counts as two, an element-wise operation as none. NaN where torch cannot tell.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which takes a while

    try:
        with FlopCounterMode(display=False) as counter:
            _shape_pass(network, in_channels, hw)
    except NotImplementedError:
        return math.nan
    return float(counter.get_total_flops()) / 1e9


def stages(network: nn.Module, in_channels: int, hw: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Channels, height and width of what is computed, in order; one entry a resolution.

    Taken is the last output of a resolution that has more than the one channel of the logits.
    """
    found: list[tuple[int, int, int]] = []

    def note(_module: nn.Module, _given: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] > 1:
            channels, height, width = output.shape[1:]
            if found and found[-1][1:] == (height, width):
                found[-1] = (channels, height, width)
            elif height * width > 1:  # pooled over the image, for attention: no stage
                found.append((channels, height, width))

    leaves = [part for part in network.modules() if not any(True for _ in part.children())]
    hooks = [part.register_forward_hook(note) for part in leaves]
    try:
        _shape_pass(network, in_channels, hw)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _shape_pass(
    network: nn.Module, in_channels: int, hw: tuple[int, int], *, training: bool = False
) -> Tensor:
    """Pass one image through a copy of ``network`` that computes shapes, not values."""
    shapes_only = copy.deepcopy(network).to("meta").train(training)
    with torch.no_grad():
        logits: Tensor = shapes_only(torch.empty(1, in_channels, *hw, device="meta"))
    return logits
