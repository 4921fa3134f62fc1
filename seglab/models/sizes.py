"""Whether a network takes images of a size, found out before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from seglab.core.errors import UserError, first_line
from seglab.models.network import Network, Padded, meta_copy

LARGEST_SIDE = 1024


def stride_of(network: nn.Module) -> int:
    """Height and width of the images must be multiples of this many pixels."""
    return network.stride if isinstance(network, Network) else 1


def check_size(name: str, network: nn.Module, in_channels: int, hw: tuple[int, int]) -> None:
    """Make sure that images of ``hw`` pixels give logits of ``hw`` pixels.

    What the network declares is checked first, then a forward pass that computes
    shapes alone; so a module that declares nothing is checked as well.

    Raises:
        UserError: it does not; names ``data.image_size`` and the nearest valid sizes.
    """
    reason = _refusal(network, in_channels, hw)
    if reason is None:
        return
    advice = ", ".join(_advice(network, in_channels, hw))
    raise UserError(
        f"data.image_size: model '{name}' does not take images of {hw[0]}x{hw[1]}: {reason}; "
        f"{advice or 'no size near it is taken'}"
    )


def check_batch(
    name: str, network: nn.Module, in_channels: int, hw: tuple[int, int], smallest: int
) -> None:
    """Make sure that ``network`` trains on batches as small as ``smallest`` images.

    PAN, DeepLab and UPerNet normalise a map pooled to one pixel over the batch, which one
    image alone does not allow. A pass that computes shapes alone finds it in any module.

    Raises:
        UserError: it does not; names ``train.batch_size``.
    """
    if smallest > 1:
        return
    try:
        with torch.no_grad():
            meta_copy(network).train()(torch.empty(1, in_channels, *hw, device="meta"))
    except NotImplementedError:  # an operation without a shape rule proves nothing
        return
    except ValueError as error:
        raise UserError(
            f"train.batch_size: model '{name}' cannot train on one image at a time "
            f"({str(error).partition(',')[0]}): give 2 or more, and train.samples_per_epoch too"
        ) from error


def _refusal(network: nn.Module, in_channels: int, hw: tuple[int, int]) -> str | None:
    """Why ``network`` refuses images of ``hw`` pixels, in a few words; None if it takes them."""
    if isinstance(network, Network) and (reason := _declared_refusal(network, hw)):
        return reason
    try:
        with torch.no_grad():
            logits = meta_copy(network)(torch.empty(1, in_channels, *hw, device="meta"))
    except NotImplementedError:  # an operation without a shape rule proves nothing
        return None
    except (RuntimeError, AssertionError, ValueError) as error:
        return first_line(error)
    if logits.shape == (1, 1, *hw):
        return None
    return f"its output is {tuple(logits.shape)}, not {(1, 1, *hw)}"


def _declared_refusal(network: Network, hw: tuple[int, int]) -> str | None:
    if network.fixed_hw is not None and network.fixed_hw != hw:
        return f"it takes {network.fixed_hw[0]}x{network.fixed_hw[1]} only"
    if any(side % network.stride for side in hw):
        return f"sides must be multiples of {network.stride}"
    if min(hw) < network.min_side:
        return f"sides must be at least {network.min_side}"
    return None


def _advice(network: nn.Module, in_channels: int, hw: tuple[int, int]) -> list[str]:
    inner = network.network if isinstance(network, Padded) else network
    if isinstance(inner, Network) and inner.fixed_hw is not None:
        room = "or less" if isinstance(network, Padded) else "and data.crop: none"
        advice = [f"set data.image_size: {inner.fixed_hw[0]} {room}"]
    else:
        sides = _nearest_sides(
            lambda side: _refusal(network, in_channels, (side, side)) is None,
            max(hw),
            stride_of(network),
        )
        advice = [f"the nearest it takes: {', '.join(map(str, sides))}"] if sides else []
    if isinstance(network, Network) and _refusal(Padded(network), in_channels, hw) is None:
        advice.append("or set model.pad: true")
    return advice


def _nearest_sides(takes: Callable[[int], bool], side: int, stride: int) -> list[int]:
    """Nearest side below and nearest side from ``side`` on that pass ``takes``."""
    tries = 12
    start = side // stride * stride
    below = range(start if start < side else start - stride, 0, -stride)
    above = range(start if start >= side else start + stride, LARGEST_SIDE + 1, stride)

    def first(candidates: Iterable[int]) -> list[int]:
        return next(([side] for side in candidates if takes(side)), [])

    return first(below[:tries]) + first(above[:tries])
