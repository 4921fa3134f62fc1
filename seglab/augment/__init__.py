"""Augmentation of slices and their masks, repeatable from a seed; importing it registers all."""

from seglab.augment import named, pipelines  # noqa: F401
