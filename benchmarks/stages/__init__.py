"""Importing this registers every stage; ``stage.GROUPS`` gives the order of the table."""

from benchmarks.stages import (
    batches,
    evaluation,
    gpu,
    memory,
    prepare,
    start,
    training,
    workers,
)

__all__ = [
    "batches",
    "evaluation",
    "gpu",
    "memory",
    "prepare",
    "start",
    "training",
    "workers",
]
