"""What a run's weights need to be used without its data: written beside every checkpoint."""

from __future__ import annotations

from seglab.core.config import RunConfig
from seglab.data.cache import CacheSettings
from seglab.learning.operating_point import OperatingPoint
from seglab.learning.reference import measure_reference
from seglab.learning.segmenter import Recipe
from seglab.studies.data import StudyData

CHECKPOINTS = "checkpoints"
"""Artifact folder of a run that holds its weights and their recipe."""


def make_recipe(
    config: RunConfig, data: StudyData, precision: str, run_id: str, point: OperatingPoint | None
) -> Recipe:
    """Describe the model that a run trained.

    Args:
        config: of the run.
        data: of the run; its training patients are measured.
        precision: of the forward pass.
        run_id: of the run.
        point: None takes the config's threshold, without further steps.
    """
    cache = data.cache
    return Recipe(
        name=config.name,
        model=config.model,
        context=config.data.context,
        precision=precision,
        settings=CacheSettings.from_config(config.data),
        shape=cache.shape,
        mirror_axis=cache.mirror_axis,
        upright=cache.upright,
        keeps_volume_scale=True,
        point=point or OperatingPoint(threshold=config.evaluation.threshold),
        reference=measure_reference(cache, data.split.train),
        run_id=run_id,
        modalities=config.data.modalities,
        target=config.data.target,
    )
