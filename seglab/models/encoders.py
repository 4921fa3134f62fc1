"""Encoders of segmentation-models-pytorch and timm: their names and their needs.

An encoder of timm is written ``tu-NAME`` or ``tu-NAME.TAG``, the tag naming one of its
sets of weights, as segmentation-models-pytorch does.
"""

from __future__ import annotations

from typing import Any

import torch

from seglab.core.errors import UserError, nearest

TIMM = "tu-"


def check_encoder(encoder: str) -> None:
    """Make sure that ``encoder`` exists.

    Raises:
        UserError: it does not; suggests the nearest name.
    """
    import segmentation_models_pytorch as smp
    import timm

    smp_names = smp.encoders.get_encoder_names()
    if encoder in smp_names:
        return
    timm_name, _, tag = encoder.removeprefix(TIMM).partition(".")
    if encoder.startswith(TIMM) and timm.is_model(timm_name):
        _check_tag(timm_name, tag)
        return
    timm_names = [TIMM + name for name in timm.list_models()]
    raise UserError(
        f"unknown model.encoder '{encoder}'{nearest(encoder, [*smp_names, *timm_names])}; "
        f"choose one of: {', '.join(smp_names)}, or any of timm's {len(timm_names)} "
        f"as '{TIMM}NAME'"
    )


def _check_tag(timm_name: str, tag: str) -> None:
    import timm

    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{timm_name}.*")]
    if tag and tag not in tags:
        raise UserError(
            f"unknown weights '{tag}' in model.encoder '{TIMM}{timm_name}.{tag}'"
            f"{nearest(tag, tags)}; choose one of: {', '.join(tags) or 'none exist'}"
        )


def fixed_size(encoder: str) -> tuple[int, int] | None:
    """Height and width that an encoder of timm was made for and insists on, if it does."""
    import timm

    if not encoder.startswith(TIMM):
        return None
    config = timm.get_pretrained_cfg(encoder.removeprefix(TIMM), allow_unregistered=True)
    if config is None or not config.fixed_input_size:
        return None
    _, height, width = config.input_size
    return int(height), int(width)


def any_size_options(encoder: str) -> dict[str, bool]:
    """Options that make an encoder of fixed size take other sizes; empty if there are none.

    Vision transformers interpolate their position embedding, Swin transformers pad
    their windows.
    """
    for options in ({"dynamic_img_size": True}, {"strict_img_size": False}):
        try:
            _timm_on_meta(encoder, **options)
        except TypeError:
            continue
        return options
    return {}


def has_prefix_tokens(encoder: str) -> bool:
    """Whether a transformer of timm has class or register tokens beside the image's."""
    return bool(getattr(_timm_on_meta(encoder), "num_prefix_tokens", 0))


def _timm_on_meta(encoder: str, **options: Any) -> Any:
    import timm

    with torch.device("meta"):
        return timm.create_model(encoder.removeprefix(TIMM), pretrained=False, **options)
