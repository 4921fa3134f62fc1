"""A model as ONNX: written, and checked against the network it was written from.

Its metadata tell how to make its input and what to do with the logits. Mirroring is inside.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from seglab.core.errors import UserError
from seglab.data.cache import Cache
from seglab.data.loader import gather
from seglab.data.normalise import range_ends
from seglab.learning.bundle import AXES, NOT_MEDICAL, ModelBundle, ModelCard
from seglab.learning.device import Compute
from seglab.learning.inference import Predictor, brain_rows, mirrored
from seglab.models.build import IMAGE_MEAN, IMAGE_SD

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUT = "image", "logits"
TOLERANCE = 1e-3
"""Logits are equal where |difference| ≤ TOLERANCE · (1 + |logit|); other sums differ by 1e-5."""
MASK_TOLERANCE = 1e-5  # share of the pixels that may be on the other side of the threshold
MOST_SLICES = 512  # slices compared, evenly over all patients given; more would say nothing new


@dataclass(frozen=True)
class OnnxCheck:
    """How an ONNX file compares with its network in float32."""

    slices: int
    pixels: int
    largest_gap: float  # of two logits
    worst: float  # largest |difference| / (1 + |logit|)
    mask_px: int  # pixels that are tumour in only one of the two, at the frozen threshold

    @property
    def equal(self) -> bool:
        """Whether logits and masks are equal within the tolerances."""
        close = self.worst <= TOLERANCE and self.mask_px <= MASK_TOLERANCE * self.pixels
        return self.slices > 0 and close

    def __str__(self) -> str:
        return (
            f"logits within {self.largest_gap:.1g} of the network's on {self.slices} validation "
            f"slices, {self.mask_px} of {self.pixels} mask pixels differ"
        )


def export_onnx(bundle: ModelBundle, path: Path) -> None:
    """Write the network as one ONNX file: image (batch, C, h, w) to logits (batch, 1, h, w).

    Raises UserError where the packages of the extra ``onnx`` are not installed, or the model
    averages planes: the file sees the slices of one.
    """
    if bundle.card.shapes:
        raise UserError(f"the model averages planes: axial, {', '.join(bundle.card.shapes)}")
    absent = [name for name in PACKAGES if find_spec(name) is None]
    if absent:
        wanted = " ".join(PACKAGES)
        raise UserError(f"no package {absent[0]}: pip install {wanted} (the extra 'onnx')")
    import onnx

    card = bundle.card
    torch.onnx.export(
        _in_float32(bundle).network,
        (torch.zeros(2, len(card.channels), *card.shape),),
        path,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, describe(card))
    onnx.save(model, path)


def describe(card: ModelCard) -> dict[str, str]:
    """Say what goes in and what to do with what comes out, as the file's metadata."""
    point, settings = card.point, card.settings
    ranges = {
        name: range_ends(settings.normalise, card.range_modality or name)
        for name in card.modalities
    }
    units = {
        "percentile": "percentiles of the brain",
        "histogram": "deviations, after deciles of the brain became those of a normal distribution",
    }
    unit = units.get(settings.normalise, "deviations from the centre of the brain")
    height, width = card.shape
    axes, _ = settings.axes(card.upright)
    return {
        "seglab.name": card.name,
        "seglab.channels": json.dumps(card.channels),
        "seglab.ranges": json.dumps(ranges),
        "seglab.axes": axes,
        "seglab.mean_sd": json.dumps([IMAGE_MEAN, IMAGE_SD]),
        "seglab.input": (
            "seglab.channels of a slice (the nearest neighbour where one is absent), as levels q: "
            f"0 is background, 1 to 255 span seglab.ranges ({unit}, normalise="
            f"{settings.normalise}, scope={settings.normalise_scope}). Slices, rows, columns run "
            f"to {', '.join(AXES[axis] for axis in axes)} (seglab.axes); {height}x{width} px "
            f"around the brain (crop={settings.crop}), of a frame of {settings.image_size}. "
            f"Then (q / 255 - {IMAGE_MEAN}) / {IMAGE_SD} (seglab.mean_sd)"
        ),
        "seglab.output": (
            f"logits of {card.target} tumour; tumour where the sigmoid, at native size, "
            f"is above {point.threshold:g}; then the steps of seglab.operating_point but mirroring"
        ),
        "seglab.use": NOT_MEDICAL,
        "seglab.notice": card.notice,
        "seglab.operating_point": json.dumps(vars(point)),
        "seglab.model": json.dumps(card.to_json()),
    }


def check_onnx(bundle: ModelBundle, path: Path, cache: Cache, patients: Sequence[str]) -> OnnxCheck:
    """Compare the file with the network in float32 on slices of cached patients."""
    import onnxruntime

    predictor = _in_float32(bundle)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = predictor.compute.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    threshold = bundle.card.point.threshold
    limit = math.log(threshold / (1 - threshold))
    rows = np.concatenate([brain_rows(cache, cache.by_id[name]) for name in patients])
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_SLICES)).astype(np.int64)]
    pixels = mask_px = 0
    largest = worst = 0.0
    for part, logits in predictor.logits(cache, some):
        images = predictor.compute.images(gather(cache, part, predictor.context))
        (found,) = session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        expected = logits.numpy()
        gap = np.nan_to_num(np.abs(found - expected), nan=math.inf)
        largest = max(largest, float(gap.max()))
        worst = max(worst, float((gap / (1 + np.abs(expected))).max()))
        mask_px += int(np.count_nonzero((found > limit) != (expected > limit)))
        pixels += found.size
    return OnnxCheck(len(some), pixels, largest, worst, mask_px)


def _in_float32(bundle: ModelBundle) -> Predictor:
    """A copy of the network on the processor, in float32, mirrored as the point asks."""
    plain, card, network = bundle.predictor, bundle.card, copy.deepcopy(bundle.predictor.network)
    compute = Compute(torch.device("cpu"), "fp32", plain.compute.threads)
    if card.point.mirror:
        network = mirrored(network, card.settings.mirror_axis(card.mirror_axis))
    return replace(plain, network=network.to("cpu").eval(), compute=compute)
