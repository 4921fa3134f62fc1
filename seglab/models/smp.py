"""The architectures of segmentation-models-pytorch (smp), with encoders of smp and timm.

An encoder of timm is written ``tu-NAME`` or ``tu-NAME.TAG``, the tag naming its weights. PAN,
DeepLabV3(+) and UPerNet normalise single pixels over the batch: they train on two images or more.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seglab.core.errors import UserError, nearest
from seglab.core.registry import MODELS
from seglab.models.build import Padded

ARCHITECTURES = {
    "smp-unet": ("Unet", "U-Net decoder on a chosen encoder; Ronneberger 2015"),
    "smp-unetplusplus": ("UnetPlusPlus", "Nested, dense skips; Zhou 2018"),
    "smp-manet": ("MAnet", "U-Net with multi-scale attention; Fan 2020"),
    "smp-linknet": ("Linknet", "Skips added, not concatenated: fast; Chaurasia 2017"),
    "smp-fpn": ("FPN", "Feature pyramid; Lin 2017, Kirillov 2019"),
    "smp-pspnet": ("PSPNet", "Pyramid pooling, coarse output (1/8); Zhao 2017"),
    "smp-pan": ("PAN", "Pyramid attention, sides of 128 or more; Li 2018"),
    "smp-deeplabv3": ("DeepLabV3", "Dilated encoder and ASPP (1/8); Chen 2017"),
    "smp-deeplabv3plus": ("DeepLabV3Plus", "DeepLabV3 with a skip; Chen 2018"),
    "smp-upernet": ("UPerNet", "Pyramid pooling on a feature pyramid; Xiao 2018"),
    "smp-segformer": ("Segformer", "All-MLP decoder, made for mit_*; Xie 2021"),
    "smp-dpt": ("DPT", "Dense prediction on a vision transformer of timm; Ranftl 2021"),
}
DEFAULT_ENCODERS = {"Segformer": "mit_b0", "DPT": "tu-vit_tiny_patch16_224"}
TIMM = "tu-"
FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def build_smp(architecture: str, in_channels: int, encoder: str, weights: str) -> Any:
    """Build the model of class ``architecture`` in smp, with one output channel.

    smp and timm adapt a pretrained RGB stem: summed for one channel, repeated in turn for more.
    ``weights`` are ``none``, a published set such as ``imagenet``, or a file. Raises UserError for
    an encoder that cannot be used, and weights that cannot be had or leave a part of it random.
    """
    source = weights
    try:
        if weights.endswith(FILE_SUFFIXES):
            digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
            source = f"file {Path(weights).name}, sha256 {digest[:12]}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # smp: which of its names are getting old
            net = _build(architecture, in_channels, encoder, weights)
    except Exception as error:  # a hundred encoders, hubs and broken files fail in as many ways
        raise UserError(_reason(architecture, encoder, weights, error)) from error
    net.weights_source = source
    return net


def _build(architecture: str, in_channels: int, encoder: str, weights: str) -> Any:
    import segmentation_models_pytorch as smp
    from timm.models import load_state_dict

    options: dict[str, Any] = {"in_channels": in_channels, "classes": 1}
    if architecture == "DPT":
        options["dynamic_img_size"] = True  # interpolates the position embedding
    elif encoder.startswith(f"{TIMM}swin"):
        options["strict_img_size"] = False  # pads the windows
    construct = partial(getattr(smp, architecture), encoder, **options)
    is_file = weights.endswith(FILE_SUFFIXES)
    # No code of the file is run, whatever smp and timm do with it later.
    tensors = load_state_dict(weights, weights_only=True) if is_file else {}
    if encoder.startswith(TIMM) and weights != "none":
        if is_file:
            overlay = {"file": weights, "custom_load": False}
            construct = partial(construct, pretrained_cfg_overlay=overlay)
        elif weights != "imagenet":
            raise ValueError("timm has only 'imagenet', chosen by the tag of the encoder's name")
        return _proved_loaded(partial(construct, encoder_weights=True))
    net = construct(encoder_weights=None if weights == "none" or is_file else weights)
    if is_file:
        whole = smp.encoders.get_encoder(encoder, in_channels=3, weights=None)
        whole.load_state_dict(tensors)
        whole.set_in_channels(in_channels, pretrained=True)
        net.encoder.load_state_dict(whole.state_dict())
    return net


def _proved_loaded(construct: Callable[[], Any]) -> Any:
    """Build a network of which no part of the encoder is random.

    timm only logs what a file lacks. What differs between two builds was drawn, not loaded.
    """
    net = construct()
    with torch.random.fork_rng(devices=[]):
        twin = construct().encoder.state_dict()
    own = net.encoder.state_dict()
    drawn = [key for key in own if not torch.equal(own[key], twin[key])]
    if drawn:
        raise ValueError(f"{len(drawn)} of {len(own)} tensors stay random, first '{drawn[0]}'")
    return net


def _reason(architecture: str, encoder: str, weights: str, error: Exception) -> str:
    import segmentation_models_pytorch as smp
    import timm

    names = [*smp.encoders.get_encoder_names(), *(TIMM + name for name in timm.list_models())]
    if encoder.partition(".")[0] not in names:
        likely = nearest(encoder, names)
        return f"unknown model.encoder '{encoder}'{likely}; smp's, or as '{TIMM}NAME' timm's"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = lines[-1 if isinstance(error, RuntimeError) else 0].strip()[:300]
    if weights == "none":
        return f"model.encoder: smp's {architecture} cannot use '{encoder}': {told}"
    return (
        f"model.encoder_weights: '{weights}' cannot be loaded into '{encoder}': {told}; a "
        f"published set needs a connection once, a file ({', '.join(FILE_SUFFIXES)}) none"
    )


def _register(name: str, architecture: str, summary: str) -> None:
    def builder(
        in_channels: int,
        *,
        encoder: str = DEFAULT_ENCODERS.get(architecture, "resnet18"),
        encoder_weights: str = "none",
        pad: bool = True,
    ) -> nn.Module:
        net = build_smp(architecture, in_channels, encoder, encoder_weights)
        network = nn.Sequential(OrderedDict(net=net))
        # What DPT fuses is deepest at 1/32 of the image's side; PAN pools 1/16 three times by two.
        own = net.encoder.output_stride if net.requires_divisible_input_shape else 1
        stride = 32 if architecture == "DPT" else own
        return Padded(network, stride, 128 if architecture == "PAN" else 1) if pad else network

    builder.__doc__ = summary
    builder.__qualname__ = f"smp.{architecture}"
    MODELS.register(name)(builder)


for _name, (_architecture, _summary) in ARCHITECTURES.items():
    _register(_name, _architecture, _summary)
