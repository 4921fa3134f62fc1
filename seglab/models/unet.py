"""The hand-written U-Net: the baseline that everything else is compared with.

Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597), but convolutions are padded and normalised,
and the width starts at 16 instead of 64 channels: a sixteenth of the cost, for little.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from seglab.core.config import UNSET
from seglab.core.registry import MODELS

Norm = Literal["batch", "instance", "group", "none"]
Up = Literal["transpose", "bilinear", "nearest"]
Activation = Literal["relu", "leaky_relu"]

GROUPS = 8


@MODELS.register("unet")
class UNet(nn.Module):
    """Hand-written U-Net, the baseline; Ronneberger 2015, padded and normalised.

    It halves ``depth`` times, from ``base_channels`` at full resolution; each halving doubles the
    channels, sides must be multiples of ``2 ** depth`` (``pad_to``). ``up`` is how the decoder
    doubles the resolution, ``dropout`` the share of channels dropped at the lowest.
    ``residual`` adds a projection of its input to each block's output (He 2016). With
    ``deep_supervision`` every scale of the decoder but the lowest predicts in training (Lee 2015).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        base_channels: Annotated[int, Field(ge=1, le=256)] = 16,
        depth: Annotated[int, Field(ge=1, le=7)] = 4,
        norm: Norm = "batch",
        up: Up = "transpose",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        activation: Annotated[Activation, Field(json_schema_extra=UNSET)] = "relu",
        residual: Annotated[bool, Field(json_schema_extra=UNSET)] = False,
        deep_supervision: Annotated[bool, Field(json_schema_extra=UNSET)] = False,
        pad: bool = True,
    ) -> None:
        super().__init__()
        self.pad_to = 2**depth if pad else None
        widths = [base_channels * 2**level for level in range(depth + 1)]
        kind = Residual if residual else _double_conv
        block = partial(kind, norm=norm, activation=activation)
        self.encoder = nn.ModuleList(map(block, [in_channels, *widths[:-1]], widths))
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(dropout)
        narrowing = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(_upsample(wide, narrow, up) for wide, narrow in narrowing)
        self.decoder = nn.ModuleList(block(2 * narrow, narrow) for _, narrow in narrowing)
        self.head = nn.Conv2d(base_channels, 1, kernel_size=1)
        coarser = widths[1:depth] if deep_supervision else []
        self.coarse_heads = nn.ModuleList(nn.Conv2d(width, 1, kernel_size=1) for width in coarser)
        self.apply(_init_he)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B,C,H,W) to logits (B,1,H,W); H and W multiples of ``2 ** depth``.

        In training with deep supervision (B,depth,H,W): those of coarser scales follow, enlarged.
        """
        x = self.encoder[0](image)
        skips = []
        for block in list(self.encoder)[1:]:
            skips.append(x)
            x = block(self.pool(x))
        x = self.dropout(x)
        scales: list[Tensor] = []
        for up, block, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            x = block(torch.cat((skip, up(x)), dim=1))
            scales.insert(0, x)
        logits: Tensor = self.head(x)
        if not (self.training and self.coarse_heads):
            return logits
        coarse = [head(x) for head, x in zip(self.coarse_heads, scales[1:], strict=True)]
        size = logits.shape[-2:]
        enlarged = [F.interpolate(one, size, mode="bilinear") for one in coarse]
        return torch.cat((logits, *enlarged), dim=1)


class Residual(nn.Module):
    """Two convolutions, to whose output the input is added before the last activation."""

    def __init__(
        self, in_channels: int, out_channels: int, norm: Norm, activation: Activation
    ) -> None:
        super().__init__()
        *convolutions, self.activation = _double_conv(in_channels, out_channels, norm, activation)
        self.convolutions = nn.Sequential(*convolutions)
        self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B,in_channels,H,W) to (B,out_channels,H,W)."""
        added: Tensor = self.activation(self.convolutions(x) + self.shortcut(x))
        return added


def _double_conv(
    in_channels: int, out_channels: int, norm: Norm, activation: Activation
) -> nn.Sequential:
    normalise: dict[str, Callable[[], nn.Module]] = {
        "batch": lambda: nn.BatchNorm2d(out_channels),
        "instance": lambda: nn.InstanceNorm2d(out_channels, affine=True),
        "group": lambda: nn.GroupNorm(math.gcd(GROUPS, out_channels), out_channels),
        "none": nn.Identity,
    }
    activate = nn.LeakyReLU if activation == "leaky_relu" else nn.ReLU
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        # A bias before a normalisation is subtracted again by it.
        bias = norm == "none"
        layers.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=bias))
        layers += [normalise[norm](), activate(inplace=True)]
    return nn.Sequential(*layers)


def _upsample(in_channels: int, out_channels: int, up: Up) -> nn.Module:
    if up == "transpose":
        return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
    # A 1x1 convolution commutes with interpolation and costs a quarter before it.
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1), nn.Upsample(scale_factor=2, mode=up)
    )


def _init_he(module: nn.Module) -> None:
    """Gaussian of variance 2/fan-in (He 2015), as the U-Net paper asks for."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
