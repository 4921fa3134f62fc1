"""Augmentation of slices and their masks, repeatable from a seed; importing it registers all."""

from seglab.augment import named, pipelines  # noqa: F401  (register)
from seglab.augment.transform import FRAME_MM, Augmenter, Frame, Transform, sample_streams

__all__ = ["FRAME_MM", "Augmenter", "Frame", "Transform", "sample_streams"]
