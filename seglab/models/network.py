"""What every network of the package tells about itself: the sizes it takes, its weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

BACKGROUND = -2.0
"""Value of the background in network input: (0 - 0.5) / 0.25, see the input convention."""

RANDOM_WEIGHTS: Mapping[str, str] = MappingProxyType({"source": "none"})


class Network(nn.Module):
    """Maps an image (B,C,H,W) float to logits (B,1,H,W).

    A registered builder may return any ``nn.Module`` of that shape; deriving from
    this class lets it declare what it cannot take.
    """

    stride: int = 1
    """Height and width must be multiples of this."""
    fixed_hw: tuple[int, int] | None = None
    """The only size it takes, where there is only one."""
    weights: Mapping[str, str] = RANDOM_WEIGHTS
    """Where its initial weights came from; ``{"source": "none"}`` is random."""


class Padded(Network):
    """Pads the image to a size that ``network`` takes, and crops the logits back.

    The padding has the background's value and is shared between the two sides.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.weights = network.weights

    def forward(self, image: Tensor) -> Tensor:
        """Image (B,C,H,W) of any size up to ``fixed_hw`` to logits (B,1,H,W)."""
        height, width = image.shape[-2:]
        rows, columns = padded_hw(self.network, (height, width))
        top, left = (rows - height) // 2, (columns - width) // 2
        border = (left, columns - width - left, top, rows - height - top)
        logits: Tensor = self.network(F.pad(image, border, value=BACKGROUND))
        return logits[..., top : top + height, left : left + width]


def padded_hw(network: Network, hw: tuple[int, int]) -> tuple[int, int]:
    """Smallest size not below ``hw`` that ``network`` takes.

    Raises:
        ValueError: ``hw`` is larger than the one size the network takes.
    """
    if network.fixed_hw is None:
        rows, columns = (-(-side // network.stride) * network.stride for side in hw)
        return rows, columns
    if hw[0] > network.fixed_hw[0] or hw[1] > network.fixed_hw[1]:
        raise ValueError(f"{hw} does not fit into {network.fixed_hw}")
    return network.fixed_hw


def pad_if(wanted: bool, network: Network) -> Network:
    """Wrap ``network`` in :class:`Padded` where the option ``pad`` asks for it."""
    return Padded(network) if wanted else network
