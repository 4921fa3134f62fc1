"""Importing this registers every stage, in the order of the pipeline."""

from seglab.bench.stages import batches, gpu, prepare

__all__ = ["batches", "gpu", "prepare"]
