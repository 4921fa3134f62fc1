"""The architectures of segmentation-models-pytorch (smp), with encoders of smp and timm.

An encoder of timm is written ``tu-NAME`` or ``tu-NAME.TAG``, the tag naming its weights. PAN,
DeepLabV3(+) and UPerNet normalise single pixels over the batch: they train on two images or more.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from seglab.core.errors import UserError, nearest
from seglab.core.registry import MODELS
from seglab.models.build import IMAGE_MEAN, IMAGE_SD, Padded

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

    A pretrained RGB stem is adapted: summed for one channel, repeated in turn for more, scaled to
    the network's input. ``weights`` are ``none``, a published set such as ``imagenet``, or a file.
    Raises UserError for an encoder that cannot be used, and weights that cannot be had or leave a
    part of it random.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # smp: which of its names are getting old
            net, source = _build(architecture, in_channels, encoder, weights)
    except Exception as error:  # a hundred encoders, hubs and broken files fail in as many ways
        raise UserError(_reason(architecture, encoder, weights, error)) from error
    net.weights_source = source
    return net


def _build(architecture: str, in_channels: int, encoder: str, weights: str) -> tuple[Any, str]:
    """Build the network; tell where its weights came from."""
    import segmentation_models_pytorch as smp

    options: dict[str, Any] = {"classes": 1}
    if architecture == "DPT":
        options["dynamic_img_size"] = True  # interpolates the position embedding
    elif encoder.startswith(f"{TIMM}swin"):
        options["strict_img_size"] = False  # pads the windows
    construct = partial(getattr(smp, architecture), encoder, **options)
    if weights == "none":
        return construct(in_channels=in_channels, encoder_weights=None), weights
    if weights.endswith(FILE_SUFFIXES):
        net = construct(in_channels=in_channels, encoder_weights=None)
        digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        fitted = _load_file(net.encoder, weights)
        source = f"file {Path(weights).name}, sha256 {digest[:12]}, {fitted} tensors"
    elif encoder.startswith(TIMM):
        if weights != "imagenet":
            raise ValueError("timm has only 'imagenet', chosen by the tag of the encoder's name")
        source = weights
        net = _proved_loaded(partial(construct, in_channels=in_channels, encoder_weights=True))
    else:
        source = weights
        net = construct(in_channels=in_channels, encoder_weights=weights)
    _scale_stem(net.encoder, encoder)
    return net, source


def _load_file(encoder: nn.Module, path: str) -> int:
    """Load a file of timm or torchvision, without running its code; return how many tensors fit.

    They are matched by name or, where names differ, by their order: then each tensor must have the
    role (weight, bias, …) and the shape of its counterpart. What follows them is the classifier.
    """
    from timm.models import load_state_dict

    wanted, found = map(_counted, (encoder.state_dict(), load_state_dict(path, weights_only=True)))
    parts = encoder.named_modules()
    stem = next(f"{name}.weight" for name, part in parts if isinstance(part, nn.Conv2d))
    kernels, channels, *size = wanted[stem].shape
    wanted[stem] = torch.empty(kernels, 3, *size)
    named = {_plain(name): tensor for name, tensor in found.items()}
    by_name = {name: named[_plain(name)] for name in wanted if _plain(name) in named}
    pairs = zip(wanted.items(), found.items(), strict=False)
    alike = takewhile(lambda pair: _form(pair[0]) == _form(pair[1]), pairs)
    by_order = {name: tensor for (name, _), (_, tensor) in alike}
    fitted = max(by_name, by_order, key=len)
    lacking = [
        name for name in wanted if name not in fitted or fitted[name].shape != wanted[name].shape
    ]
    if lacking:
        names = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        raise ValueError(
            f"{len(lacking)} of {len(wanted)} tensors do not fit or are absent: {names}"
        )
    rgb = fitted[stem]
    in_turn = rgb[:, [i % 3 for i in range(channels)]] * 3 / channels
    fitted[stem] = rgb.sum(1, keepdim=True) if channels == 1 else in_turn
    nn.Module.load_state_dict(encoder, fitted, strict=False)
    return len(fitted)


def _counted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All but the counters of batches, which old files lack and nothing reads."""
    return {name: one for name, one in state.items() if not name.endswith("num_batches_tracked")}


def _plain(name: str) -> str:
    """A tensor's name, however timm nests it: ``model.stages_0.conv`` is ``stages.0.conv``."""
    return name.removeprefix("model.").replace("_", ".")


def _form(named: tuple[str, Tensor]) -> tuple[str, torch.Size]:
    return named[0].rpartition(".")[2], named[1].shape


def _scale_stem(encoder: nn.Module, name: str) -> None:
    """Have the stem take our input z for the (x - mean) / sd that its weights expect, x in 0 to 1.

    A stem without a bias leaves the difference of the means to the normalisation that follows.
    """
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from timm.models import get_pretrained_cfg

    settings = get_pretrained_cfg(name.removeprefix(TIMM)) if name.startswith(TIMM) else None
    mean = fmean(settings.mean if settings else IMAGENET_DEFAULT_MEAN)
    sd = fmean(settings.std if settings else IMAGENET_DEFAULT_STD)
    stem = next(part for part in encoder.modules() if isinstance(part, nn.Conv2d))
    with torch.no_grad():
        if stem.bias is not None:
            stem.bias += stem.weight.sum((1, 2, 3)) * (IMAGE_MEAN - mean) / sd
        stem.weight *= IMAGE_SD / sd


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
