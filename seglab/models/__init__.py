"""Networks from image (B,C,H,W) to logits (B,1,H,W), built by name."""

from seglab.models import smp, unet  # noqa: F401  (register)
from seglab.models.build import (
    Ensemble,
    build_model,
    count_parameters,
    gflops_per_image,
    loaded_weights,
    stages,
)

__all__ = [
    "Ensemble",
    "build_model",
    "count_parameters",
    "gflops_per_image",
    "loaded_weights",
    "stages",
]
