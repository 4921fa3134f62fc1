"""The architectures of segmentation-models-pytorch (smp), with encoders of smp and timm.

PAN, DeepLabV3(+) and UPerNet normalise a feature map pooled to one pixel over the
batch: while training, each batch must hold at least two images.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seglab.core.errors import UserError, first_line
from seglab.core.registry import MODELS
from seglab.models.encoders import (
    TIMM,
    any_size_options,
    check_encoder,
    fixed_size,
    has_prefix_tokens,
)
from seglab.models.network import Network, pad_if
from seglab.models.weights import WeightsFile, find_weights, load_smp_encoder, misfit

DPT_STRIDE = 32
"""The deepest of the four maps that DPT fuses has 1/32 of the image's side."""
PAN_MIN_SIDE = 128
"""PAN pools the encoder's map (1/16) three times by two."""


class SmpNetwork(Network):
    """An smp model and what it tells about the sizes it takes."""

    def __init__(self, net: Any, fixed_hw: tuple[int, int] | None) -> None:
        super().__init__()
        self.net = net
        self.fixed_hw = fixed_hw
        self.stride = net.encoder.output_stride if net.requires_divisible_input_shape else 1

    def forward(self, image: Tensor) -> Tensor:
        """Image (B,C,H,W) to logits (B,1,H,W)."""
        logits: Tensor = self.net(image)
        return logits


def build_smp(
    architecture: str, in_channels: int, encoder: str, encoder_weights: str
) -> SmpNetwork:
    """Build an smp model with one output channel and its initial weights.

    Args:
        architecture: class name in smp.
        in_channels: channels of the image; a pretrained RGB stem is adapted.
        encoder: name in smp, or ``tu-`` and a name in timm.
        encoder_weights: ``none``, a published set such as ``imagenet``, or a file.

    Raises:
        UserError: unknown encoder, one that the architecture cannot use, or weights that
            cannot be had or do not fill the whole encoder.
    """
    check_encoder(encoder)
    file = find_weights(encoder, encoder_weights)
    fixed_hw = fixed_size(encoder)
    options: dict[str, Any] = {}
    if fixed_hw and (freeing := any_size_options(encoder)):
        fixed_hw, options = None, dict(freeing)
    if architecture == "DPT" and encoder.startswith(TIMM) and not has_prefix_tokens(encoder):
        options["decoder_readout"] = "ignore"

    def build() -> SmpNetwork:
        net = _construct(architecture, in_channels, encoder, file, options)
        return SmpNetwork(net, fixed_hw)

    network = build()
    if file is not None:
        _prove_loaded(network, build, file)
        network.weights = file.describe()
    if architecture == "DPT":
        network.stride = _dpt_stride(encoder, network.stride)
    if architecture == "PAN":
        network.min_side = PAN_MIN_SIDE
    return network


def _construct(
    architecture: str,
    in_channels: int,
    encoder: str,
    file: WeightsFile | None,
    options: dict[str, Any],
) -> Any:
    import segmentation_models_pytorch as smp

    from_timm = encoder.startswith(TIMM)
    if file is not None and from_timm:
        # timm renames and adapts the tensors of its models itself, if given the file.
        overlay = {"file": str(file.path), "custom_load": False}
        options = {**options, "pretrained_cfg_overlay": overlay}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # smp: which of its names are getting old
            net: Any = getattr(smp, architecture)(
                encoder,
                encoder_weights=True if file is not None and from_timm else None,
                in_channels=in_channels,
                classes=1,
                **options,
            )
    except Exception as error:  # a hundred encoders fail in as many ways
        if file is not None and from_timm:
            raise misfit(file, error) from error
        raise UserError(
            f"model.encoder: smp's {architecture} cannot use '{encoder}': {first_line(error)}"
        ) from error
    if file is not None and not from_timm:
        load_smp_encoder(net.encoder, file)
    return net


def _dpt_stride(encoder: str, patch_px: int) -> int:
    if DPT_STRIDE % patch_px:
        raise UserError(
            f"model.encoder: smp's DPT cannot use '{encoder}': its patches of {patch_px} pixels "
            f"do not divide {DPT_STRIDE}"
        )
    return DPT_STRIDE


def _prove_loaded(network: SmpNetwork, build: Callable[[], SmpNetwork], file: WeightsFile) -> None:
    """Refuse an encoder of which a part stayed random.

    timm only logs what a file lacks. What differs between two builds was drawn, not loaded.
    """
    with torch.random.fork_rng(devices=[]):
        twin = build().net.encoder.state_dict()
    own = network.net.encoder.state_dict()
    drawn = [key for key in own if not torch.equal(own[key], twin[key])]
    if drawn:
        raise UserError(
            f"model.encoder_weights: '{file.path}' leaves {len(drawn)} of {len(own)} tensors of "
            f"model.encoder random, first '{drawn[0]}'"
        )


def _register(name: str, architecture: str, summary: str, default_encoder: str) -> None:
    def builder(
        in_channels: int,
        *,
        encoder: str = default_encoder,
        encoder_weights: str = "none",
        pad: bool = False,
    ) -> nn.Module:
        return pad_if(pad, build_smp(architecture, in_channels, encoder, encoder_weights))

    builder.__doc__ = summary
    builder.__qualname__ = f"smp_models.{architecture}"
    MODELS.register(name)(builder)


ARCHITECTURES = {
    "smp-unet": ("Unet", "U-Net decoder on a chosen encoder; Ronneberger 2015", "resnet18"),
    "smp-unetplusplus": ("UnetPlusPlus", "Nested, dense skips; Zhou 2018", "resnet18"),
    "smp-manet": ("MAnet", "U-Net with multi-scale attention; Fan 2020", "resnet18"),
    "smp-linknet": ("Linknet", "Skips added, not concatenated: fast; Chaurasia 2017", "resnet18"),
    "smp-fpn": ("FPN", "Feature pyramid; Lin 2017, Kirillov 2019", "resnet18"),
    "smp-pspnet": ("PSPNet", "Pyramid pooling, coarse output (1/8); Zhao 2017", "resnet18"),
    "smp-pan": ("PAN", "Pyramid attention, sides of 128 or more; Li 2018", "resnet18"),
    "smp-deeplabv3": ("DeepLabV3", "Dilated encoder and ASPP (1/8); Chen 2017", "resnet18"),
    "smp-deeplabv3plus": ("DeepLabV3Plus", "DeepLabV3 with a skip; Chen 2018", "resnet18"),
    "smp-upernet": ("UPerNet", "Pyramid pooling on a feature pyramid; Xiao 2018", "resnet18"),
    "smp-segformer": ("Segformer", "All-MLP decoder, made for mit_*; Xie 2021", "mit_b0"),
    "smp-dpt": (
        "DPT",
        "Dense prediction on a vision transformer of timm; Ranftl 2021",
        "tu-vit_tiny_patch16_224",
    ),
}

for _name, (_architecture, _summary, _encoder) in ARCHITECTURES.items():
    _register(_name, _architecture, _summary, _encoder)
