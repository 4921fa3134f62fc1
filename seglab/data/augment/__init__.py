"""Augmentation of uint8 slices and their masks, repeatable from a seed.

Importing this package registers every pipeline in ``AUGMENTATIONS`` without
importing albumentations, which takes longer to import than OpenCV and NumPy together.
"""

from __future__ import annotations

import os

# albumentations asks the network for a newer version of itself when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from seglab.data.augment import pipelines
from seglab.data.augment.augmenter import Augmenter
from seglab.data.augment.transform import Transform

__all__ = ["Augmenter", "Transform", "pipelines"]
