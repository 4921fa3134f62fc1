"""Layer 1: from MRI files to batches: sources, phantoms, checks, cache, splits, augmentation."""
