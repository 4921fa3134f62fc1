"""Augmentation of slices and their masks, repeatable from a seed; importing it registers all."""

from __future__ import annotations

from seglab.augment import pipelines  # noqa: F401  (registers)
from seglab.augment.augmenter import Augmenter, sample_streams
from seglab.augment.transform import FRAME_MM, Frame, Transform

__all__ = ["FRAME_MM", "Augmenter", "Frame", "Transform", "sample_streams"]
