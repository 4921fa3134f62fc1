"""What decides the content of a cache, beside the files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from seglab.data.normalise import Method, Scope

if TYPE_CHECKING:  # workers that fill a cache start without them
    from seglab.core.config import Data
    from seglab.data.sources import Source


@dataclass(frozen=True)
class CacheSettings:
    """How slices are cropped, scaled and normalised; nothing is left to be resolved."""

    image_size: int
    """Pixels along the whole, square native frame: sets the scale, cropped or not."""
    crop: Literal["brain", "none"]
    normalise: Method
    normalise_scope: Scope
    channel: int

    @classmethod
    def from_config(cls, data: Data, source: Source) -> CacheSettings:
        """Take the ``data`` block, with ``auto`` and defaults resolved by the source."""
        automatic: Scope = "volume" if source.keeps_volume_scale else "slice"
        scope = automatic if data.normalise_scope == "auto" else data.normalise_scope
        return cls(
            image_size=data.image_size,
            crop=data.crop,
            normalise=data.normalise,
            normalise_scope=scope,
            channel=source.default_channel if source.channel is None else source.channel,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the cache's index holds them."""
        return asdict(self)
