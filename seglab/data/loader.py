"""Slices of the cache with their neighbours, and the order in which a training sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from seglab.core.config import RunConfig
from seglab.core.errors import UserError
from seglab.data.cache import Cache, CachedPatient

UInt8 = NDArray[np.uint8]
Rows = NDArray[np.int64]


def gather(cache: Cache, rows: Rows, context: int) -> UInt8:
    """Read slices with their neighbours as channels: (B, H, W, M·(2·context + 1)) uint8.

    All neighbours of the first modality come before those of the second. One beyond the stack, or
    missing from the files, is replaced by the nearest slice on the way there.
    """
    near = [neighbour(cache, rows, offset) for offset in range(-context, context + 1)]
    return np.stack([image[each] for image in cache.images for each in near], axis=-1)


def neighbour(cache: Cache, rows: Rows, offset: int) -> Rows:
    """Row of the slice ``offset`` away in the same patient, or the nearest there is."""
    step = 1 if offset > 0 else -1
    current = rows.copy()
    for _ in range(abs(offset)):
        following = np.clip(current + step, 0, len(cache.row_slice) - 1)
        adjacent = (cache.row_patient[following] == cache.row_patient[current]) & (
            cache.row_slice[following] - cache.row_slice[current] == step
        )
        current = np.where(adjacent, following, current)
    return current


def patient_rows(*patients: CachedPatient) -> Rows:
    """Rows of the patients' slices, ascending."""
    return np.sort(np.r_[tuple(one.rows for one in patients)])


class TrainLoader:
    """Draws the training slices, some with tumour, of each epoch from streams of the seed.

    Of several planes it has one, ``share`` (number, of how many) of ``train.samples_per_epoch``.
    Raises UserError where no patient has tumour: there is nothing to learn.
    """

    def __init__(
        self,
        cache: Cache,
        patients: Sequence[str],
        config: RunConfig,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.cache, self.config = cache, config
        rows = patient_rows(*(cache.by_id[name] for name in patients))
        tumour, brain = cache.row_tumour_px[rows] > 0, cache.row_brain_px[rows] > 0
        chosen = {"all": np.ones_like(brain), "brain": brain | tumour, "tumour": tumour}
        is_used = chosen[config.data.slices]
        self.rows = rows[is_used]
        self.tumour, self.other = rows[is_used & tumour], rows[is_used & ~tumour]
        if not len(self.tumour):  # of the whole part: refused by open_data
            told = f"none of the {len(patients)} drawn has tumour (data.target={cache.target})"
            raise UserError(f"train.patients: {told}; take more, or another seed")
        wanted = config.train.samples_per_epoch
        self.samples = max(1, (wanted + share[0]) // share[1]) if wanted else len(self.rows)

    @property
    def batches(self) -> int:
        """Batches of one epoch; a last batch of one joins the one before it.

        Networks that batch-normalise a 1×1 map (DeepLab, UPerNet) cannot train on one image.
        """
        return max(1, -(-(self.samples - 1) // self.config.train.batch_size))

    def draw(self, epoch: int) -> Rows:
        """Rows of one epoch, in order; the same for the same seed and epoch."""
        stream = np.random.default_rng([self.config.seed, epoch, 1])
        share = self.config.train.tumour_fraction
        if share is None:
            return _draw(self.rows, self.samples, stream)
        wanted = round(self.samples * share) if len(self.other) else self.samples
        tumour = _draw(self.tumour, wanted, stream)
        other = _draw(self.other, self.samples - wanted, stream)
        return stream.permutation(np.concatenate((tumour, other)))

    def split(self, epoch: int) -> Iterator[Rows]:
        """Yield the rows of each batch of one epoch."""
        order, size = self.draw(epoch), self.config.train.batch_size
        for start in range(0, (self.batches - 1) * size, size):
            yield order[start : start + size]
        yield order[(self.batches - 1) * size :]


def _draw(rows: Rows, count: int, stream: np.random.Generator) -> Rows:
    """Draw ``count`` rows, each once before any comes twice."""
    rounds = -(-count // max(len(rows), 1))
    drawn = [stream.permutation(rows) for _ in range(rounds)]
    return np.concatenate([*drawn, rows[:0]])[:count]
