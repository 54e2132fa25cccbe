"""Standardising and principal components: from the user's units to white scores and back."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from identica.errors import DataError
from identica.typing import FloatArray

# Training sees standardised data rounded to this grid. It is far below any noise, and it makes the
# whole fit, bit for bit, independent of the user's units: rescaled data differ in the last digits
# only, and those would otherwise grow over thousands of optimiser steps.
_GRID = 2.0**-14


@dataclass(frozen=True)
class Whitening:
    """Standardise each column, rotate to principal components, scale the first n to unit variance.

    The d − n components left out are modelled as independent Gaussians, so that the density of
    what is kept extends to a density of x, in nats, comparable between methods.

    Attributes
    ----------
    center, scale : arrays of shape (d,)
        Mean and standard deviation of each column on the fitted rows.
    rotation : array of shape (d, d)
        Principal directions of the standardised columns, leading ones first.
    eigenvalues : array of shape (d,)
        Their variances.
    n_components : int
        How many are kept.
    """

    center: FloatArray
    scale: FloatArray
    rotation: FloatArray
    eigenvalues: FloatArray
    n_components: int

    @classmethod
    def from_rows(cls, x: FloatArray, n_components: int | None) -> "Whitening":
        """Fit on rows x (N, d), float64. ``n_components=None`` keeps as many as x has rank.

        Raises
        ------
        DataError
            If more components are asked for than x has linearly independent columns.
        """
        center, scale = column_scale(x)
        standard = round_to_grid((x - center) / scale)
        covariance = standard.T @ standard / len(standard) - np.outer(standard.mean(0), standard.mean(0))
        return cls.from_moments(center, scale, covariance, n_components)

    @classmethod
    def from_moments(
        cls, center: FloatArray, scale: FloatArray, covariance: FloatArray, n_components: int | None
    ) -> "Whitening":
        """From means and scales (d,) of columns, and the covariance (d, d) of the standardised ones.

        Raises
        ------
        DataError
            As in `from_rows`.
        """
        eigenvalues, rotation = np.linalg.eigh(covariance)
        eigenvalues, rotation = np.clip(eigenvalues[::-1], 0, None), rotation[:, ::-1]
        # The grid itself leaves variance _GRID²/12 in a direction that the data do not have.
        floor = max(4 * _GRID**2, 1e-9 * eigenvalues[0])
        rank = int((eigenvalues > floor).sum())
        if n_components is None:
            n_components = rank
        elif n_components > rank:
            raise DataError(
                f"n_components={n_components}, but X has only {rank} linearly independent columns of "
                f"{len(center)}; set n_components to {rank} or less"
            )
        return cls(center, scale, rotation, np.maximum(eigenvalues, floor), n_components)

    def standardize(self, x: FloatArray, *, grid: bool = False) -> FloatArray:
        """Columns with zero mean and unit variance (N, d); on the training grid if asked."""
        standard = (x - self.center) / self.scale
        return round_to_grid(standard) if grid else standard

    def scores(self, x: FloatArray, *, grid: bool = False) -> FloatArray:
        """White scores (N, n) of rows x (N, d)."""
        kept = self.rotation[:, : self.n_components] / np.sqrt(self.eigenvalues[: self.n_components])
        return self.standardize(x, grid=grid) @ kept

    def inverse(self, scores: FloatArray) -> FloatArray:
        """Rows (N, d) in the user's units from white scores (N, n); directions left out are 0."""
        kept = self.rotation[:, : self.n_components] * np.sqrt(self.eigenvalues[: self.n_components])
        return self.inverse_standardize(scores @ kept.T)

    def inverse_standardize(self, standard: FloatArray) -> FloatArray:
        """Rows (N, d) in the user's units from standardised columns."""
        return standard * self.scale + self.center

    def log_density_of_the_rest(self, x: FloatArray) -> FloatArray:
        """What to add to the log-density of the scores to get that of x, nats, (N,).

        It is log|det| of the map from x to all standardised components, plus the Gaussian
        log-density of the d − n components left out.
        """
        n = self.n_components
        log_det = -np.log(self.scale).sum() - 0.5 * np.log(self.eigenvalues[:n]).sum()
        rest = self.standardize(x) @ self.rotation[:, n:]
        variance = self.eigenvalues[n:]
        return log_det - 0.5 * (np.log(2 * np.pi * variance) + rest**2 / variance).sum(axis=1)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays for saving."""
        return {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> "Whitening":
        """The inverse of `to_arrays`."""
        return cls(**{**arrays, "n_components": int(arrays["n_components"])})


def column_scale(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each column, safe for values near the largest float."""
    largest = np.abs(x).max(axis=0)
    largest = np.where(largest > 0, largest, 1.0)
    unit = x / largest
    center = unit.mean(axis=0)
    # Second pass: with a large offset the first mean carries a rounding error of its own.
    center = center + (unit - center).mean(axis=0)
    scale = np.sqrt(((unit - center) ** 2).mean(axis=0))
    return center * largest, scale * largest


def round_to_grid(standard: FloatArray) -> FloatArray:
    """Standardised values rounded to the training grid of 2⁻¹⁴ standard deviations."""
    return np.round(standard / _GRID) * _GRID
