"""From configuration to a network that is known to take the images it will get."""

from __future__ import annotations

from torch import nn

from seglab.core.config import Model
from seglab.models.network import RANDOM_WEIGHTS, Network
from seglab.models.sizes import check_size


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
    check_size(config.name, network, in_channels, image_hw)
    return network


def loaded_weights(network: nn.Module) -> dict[str, str]:
    """Tell where the initial weights came from, as they were really loaded.

    Returns:
        ``{"source": "none"}`` for random weights, else ``source`` (hub repository and
        revision, or file name) and ``sha256`` of the weights file.
    """
    return dict(network.weights if isinstance(network, Network) else RANDOM_WEIGHTS)
