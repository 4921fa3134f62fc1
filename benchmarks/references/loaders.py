"""A DataLoader with none, one or two workers; the fastest is what is compared with."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader, Dataset

WORKERS = (0, 1, 2)


def loaders(dataset: Dataset[Any], batch_size: int) -> dict[str, DataLoader[Any]]:
    """One loader for each number of workers; workers stay alive between epochs."""
    return {
        f"{workers} workers": DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for workers in WORKERS
    }


def run_through(batches: Iterable[Any]) -> None:
    """Take every batch and do nothing with it."""
    deque(batches, maxlen=0)
