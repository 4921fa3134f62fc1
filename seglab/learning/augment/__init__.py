"""The augmentations of ``seglab.data.augment``, applied to a whole batch on the device.

Each transform here is made from its counterpart there, which stays the one place where
limits, probabilities and drawing are written; only the pixels are changed elsewhere.
Plain torch throughout, so that all of it also runs on torch's CPU device. Only
``translate`` imports albumentations.
"""
