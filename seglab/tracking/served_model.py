"""What MLflow loads to serve a registered model: weights and a description, no pickled code.

``_load_pyfunc`` is the name that MLflow looks for in a model's loader module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglab.core.errors import UserError
from seglab.learning.bundle import ModelBundle, load_bundle


class ServedModel:
    """Raw slices (S, H, W) float32, or (M, S, H, W) of several modalities, to masks (S, H, W)."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle = bundle

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> NDArray[np.uint8]:
        """Segment one stack of finite numbers into (S, H, W) uint8 in {0, 1}."""
        from mlflow.exceptions import MlflowException

        try:
            return self.bundle.predict(images).astype(np.uint8)
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _load_pyfunc(path: str) -> ServedModel:
    return ServedModel(load_bundle(Path(path)))
