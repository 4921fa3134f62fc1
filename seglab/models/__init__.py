"""Networks from image (B,C,H,W) to logits (B,1,H,W); importing it registers them."""

from seglab.models import smp, unet  # noqa: F401
