"""Importing this registers every source, model, loss and augmentation a YAML may name."""

import seglab.data.augment
import seglab.data.sources
import seglab.losses
import seglab.models  # noqa: F401
