"""What every network of the package tells about itself: the sizes it takes, its weights."""

from __future__ import annotations

import copy
import itertools

import torch.nn.functional as F
from torch import Tensor, nn

BACKGROUND = -2.0
"""Value of the background in network input, which is (q / 255 - 0.5) / 0.25 at q = 0."""

RANDOM_WEIGHTS = {"source": "none"}


class Network(nn.Module):
    """Maps an image (B,C,H,W) float to logits (B,1,H,W).

    A registered builder may return any ``nn.Module`` of that shape; deriving from
    this class lets it declare which sizes it takes.
    """

    stride: int = 1
    """Height and width must be multiples of this many pixels."""
    min_side: int = 1
    """Height and width must be at least so many pixels."""
    fixed_hw: tuple[int, int] | None = None
    """The only size it takes, where there is only one."""
    weights: dict[str, str] = RANDOM_WEIGHTS
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
        """Image (B,C,H,W) to logits (B,1,H,W); up to ``fixed_hw`` where there is one."""
        height, width = image.shape[-2:]
        rows, columns = padded_hw(self.network, (height, width))
        top, left = (rows - height) // 2, (columns - width) // 2
        border = (left, columns - width - left, top, rows - height - top)
        logits: Tensor = self.network(F.pad(image, border, value=BACKGROUND))
        return logits[..., top : top + height, left : left + width]


def padded_hw(network: Network, hw: tuple[int, int]) -> tuple[int, int]:
    """Smallest height and width, not below ``hw``, that ``network`` takes.

    Raises:
        ValueError: ``hw`` is larger than the one size the network takes.
    """
    fixed, stride = network.fixed_hw, network.stride
    if fixed is None:
        rows, columns = (-(-max(side, network.min_side) // stride) * stride for side in hw)
        return rows, columns
    if hw[0] > fixed[0] or hw[1] > fixed[1]:
        raise ValueError(f"{hw[0]}x{hw[1]} does not fit into {fixed[0]}x{fixed[1]}")
    return fixed


def pad_if(wanted: bool, network: Network) -> Network:
    """Wrap ``network`` in :class:`Padded` where the option ``pad`` asks for it."""
    return Padded(network) if wanted else network


def meta_copy(network: nn.Module) -> nn.Module:
    """Copy ``network``, in evaluation mode, to the device that computes shapes alone.

    No weight is copied and nothing of ``network`` changes: neither its mode, its
    running statistics nor any random state.
    """
    memo: dict[int, Tensor] = {}
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        ghost = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(ghost) if isinstance(tensor, nn.Parameter) else ghost
    return copy.deepcopy(network, memo).eval()
