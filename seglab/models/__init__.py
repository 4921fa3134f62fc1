"""Networks from image (B,C,H,W) to logits (B,1,H,W), built by name."""

from seglab.models import smp_models, unet  # noqa: F401  (register)
from seglab.models.build import build_model, loaded_weights
from seglab.models.cost import count_parameters, gflops_per_image
from seglab.models.sizes import check_batch, stride_of

__all__ = [
    "build_model",
    "check_batch",
    "count_parameters",
    "gflops_per_image",
    "loaded_weights",
    "stride_of",
]
