"""A trainer of a config, with its data, and what it came to."""

from __future__ import annotations

from collections.abc import Callable

import torch

from seglab.core.config import RunConfig
from seglab.data.open import StudyData, open_data
from seglab.learning.device import choose_compute
from seglab.learning.training import Trainer

Build = Callable[..., RunConfig]


def trainer_of(config: RunConfig) -> tuple[Trainer, StudyData]:
    data = open_data(config)
    return Trainer(config, data.cache, data.split.train, choose_compute(config.train)), data


def figures(trainer: Trainer) -> list[dict[str, float]]:
    """Metrics of each epoch without times."""
    rows = trainer.progress.history
    return [{key: one for key, one in row.items() if not key.startswith("time/")} for row in rows]


def same_weights(a: Trainer, b: Trainer) -> bool:
    pairs = zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)
