"""The training step and nothing else: the most that the machine gives."""

from __future__ import annotations

import torch
from torch import nn

from seglab.core.config import RunConfig
from seglab.data.cache import Cache
from seglab.data.loader import Rows, gather
from seglab.learning.device import Compute
from seglab.learning.optimizer import build_optimizer
from seglab.models import build_model


class BareLoop:
    """Same network, precision and batches as a run; tensors in memory, nothing validated or kept.

    Args:
        config: of the run.
        cache: of its data.
        rows: slices of an epoch.
        compute: of the run.
    """

    def __init__(self, config: RunConfig, cache: Cache, rows: Rows, compute: Compute) -> None:
        self.config, self.compute = config, compute
        channels, (height, width) = config.input_channels, cache.shape
        network = build_model(config.model, channels, (height, width)).to(compute.device)
        self.network = network.to(memory_format=torch.channels_last).train()
        self.optimizer = build_optimizer(self.network, config.optim, compute.device)
        self.loss = config.loss.build()
        images = compute.images(gather(cache, rows, config.data.context))
        masks, size = compute.masks(cache.masks(rows)), config.train.batch_size
        starts = range(0, len(rows) - 1, size)
        self.batches = [(images[i : i + size], masks[i : i + size]) for i in starts]

    def __call__(self) -> None:
        """Train one epoch."""
        for images, masks in self.batches:
            with self.compute.autocast():
                logits = self.network(images)
            loss = self.loss(logits.float(), masks)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if self.config.optim.grad_clip is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optim.grad_clip)
            self.optimizer.step()
