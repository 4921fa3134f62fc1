"""From configuration to a network that is known to take the images it will get."""

from __future__ import annotations

from torch import nn

from seglab.core.config import Model
from seglab.core.errors import UserError
from seglab.models.network import RANDOM_WEIGHTS


def build_model(
    config: Model, in_channels: int, image_hw: tuple[int, int], *, pretrained: bool = True
) -> nn.Module:
    """Build the network that ``config`` names.

    Args:
        config: name and options.
        in_channels: channels of the image (1, or 3 with one neighbour on each side, …).
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
    _check_size(config.name, network, image_hw)
    return network


def stride_of(network: nn.Module) -> int:
    """Height and width of the images must be multiples of this many pixels."""
    return int(getattr(network, "stride", 1))


def loaded_weights(network: nn.Module) -> dict[str, str]:
    """Tell where the initial weights came from, as they were really loaded.

    Returns:
        ``{"source": "none"}`` for random weights, else ``source`` (hub repository and
        revision, or file), ``sha256`` of the weights file and the number of ``tensors``.
    """
    return dict(getattr(network, "weights", RANDOM_WEIGHTS))


def _check_size(name: str, network: nn.Module, hw: tuple[int, int]) -> None:
    size = f"{hw[0]}x{hw[1]}"
    inner = getattr(network, "network", network)
    fixed = getattr(inner, "fixed_hw", None)
    if fixed is not None:
        _check_fixed_size(name, fixed, hw, padded=inner is not network)
        return
    stride = stride_of(network)
    if all(side % stride == 0 for side in hw):
        return
    valid = sorted({side // stride * stride + step for side in hw for step in (0, stride)} - {0})
    raise UserError(
        f"data.image_size: model '{name}' takes sides that are multiples of {stride}, these "
        f"images are {size}; the nearest are {' and '.join(map(str, valid))}, or set "
        f"model.pad: true"
    )


def _check_fixed_size(
    name: str, fixed: tuple[int, int], hw: tuple[int, int], *, padded: bool
) -> None:
    fits = hw[0] <= fixed[0] and hw[1] <= fixed[1]
    if hw == fixed or (padded and fits):
        return
    advice = " or a smaller size with model.pad: true" if not padded else " or less"
    raise UserError(
        f"data.image_size: model '{name}' takes {fixed[0]}x{fixed[1]} only, these images are "
        f"{hw[0]}x{hw[1]}; set data.image_size: {fixed[0]} with data.crop: none{advice}"
    )
