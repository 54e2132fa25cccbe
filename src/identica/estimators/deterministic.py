"""Estimators without a density of x: sources are a function of the row, and no likelihood exists."""

from typing import Any, NoReturn

import numpy as np

from identica.compilation import compiled
from identica.estimators.base import SourceEstimator
from identica.estimators.blocks import apply_in_blocks, precision_of, with_model
from identica.estimators.exact import as_numpy
from identica.estimators.orientation import Orientation
from identica.typing import Array, FloatArray


class Absent:
    """A method that this kind of model cannot have; asking for it says why, and `hasattr` says no."""

    def __init__(self, reason: str):
        self.reason = reason

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> NoReturn:
        owner_name = owner.__name__ if owner is not None else "This estimator"
        raise AttributeError(f"{owner_name} has no {self.name}: {self.reason}")


class DeterministicEstimator(SourceEstimator):
    """Base class of contrastive methods and controls: a network of standardised columns; abstract."""

    model_: Any

    def _model_input(self, X: FloatArray, *, grid: bool = False) -> FloatArray:
        return self.whitening_.standardize(X, grid=grid)

    def _orient(self, system: Any, dtype: np.dtype, X: FloatArray) -> None:
        """Keep the trained system, with its latents in the stated order, sign and scale."""
        self.model_ = as_numpy(system)
        x = self._model_input(X, grid=True).astype(dtype)
        latents = apply_in_blocks(with_model(_latents, self.model_), x).astype(np.float64)
        orientation = Orientation.from_rows(latents, self.whitening_.standardize(X, grid=True))
        self.orientation_ = orientation.matrix()

    def _sources(self, X: FloatArray) -> FloatArray:
        with precision_of(self.precision) as precision:
            return self._sources_of_input(self._model_input(X).astype(precision))

    def _sources_of_input(self, x: np.ndarray) -> FloatArray:
        """Sources, float64, of rows as the model sees them."""
        latents = apply_in_blocks(with_model(_latents, self.model_), x).astype(np.float64)
        weight, bias = self.orientation_
        return latents @ weight.T + bias


@compiled
def _latents(model: Any, x: Array) -> Array:
    return model.sources(x)
