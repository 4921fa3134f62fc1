"""What MLflow loads to serve a registered model: weights and a description, no pickled code.

``_load_pyfunc`` is the name that MLflow looks for in a model's loader module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.learning.segmenter import Segmenter, load_segmenter


class ServedModel:
    """Raw FLAIR slices (S, H, W) float32 to masks (S, H, W) uint8 in {0, 1}."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def predict(self, slices: Any, params: dict[str, Any] | None = None) -> NDArray[np.uint8]:
        """Segment one stack of slices, ascending, without gaps, lying as in training.

        Raises:
            MlflowException: not one stack of finite numbers.
        """
        from mlflow.exceptions import MlflowException

        image = np.asarray(slices, np.float32)
        if image.ndim != 3 or 0 in image.shape:
            raise MlflowException.invalid_parameter_value(
                f"expected FLAIR slices (S, H, W), got the shape {image.shape}"
            )
        if not np.isfinite(image).all():
            raise MlflowException.invalid_parameter_value("the slices hold NaN or infinite values")
        return self.segmenter.predict(image).astype(np.uint8)


def _load_pyfunc(path: str) -> ServedModel:
    import seglab.models  # noqa: F401  (registers the networks)

    return ServedModel(load_segmenter(Path(path)))
