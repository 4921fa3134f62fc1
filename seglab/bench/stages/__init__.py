"""Importing this registers every stage, in the order of the pipeline."""

from seglab.bench.stages import batches, prepare

__all__ = ["batches", "prepare"]
