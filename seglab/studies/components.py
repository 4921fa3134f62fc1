"""Importing this registers every source, model, loss and augmentation a YAML may name."""

from seglab.core.imports import collector_paused

with collector_paused():
    import seglab.augment
    import seglab.data.sources
    import seglab.losses
    import seglab.models  # noqa: F401
