"""The stated order, sign and scale of sources, so that two runs can be compared by eye."""

from dataclasses import dataclass

import numpy as np

from identica.typing import FloatArray, IntArray


@dataclass(frozen=True)
class Orientation:
    """The affine map from a model's latents to the public sources: s = sign · (z[order] − mean) / scale.

    Sources have zero mean and unit variance on the fitted rows. They are ordered by the share of the
    standardised columns of X that each explains by linear correlation, largest first. The sign makes
    the correlation with the column that a source resembles most positive.
    """

    order: IntArray
    mean: FloatArray
    factor: FloatArray

    @classmethod
    def from_rows(cls, z: FloatArray, standard: FloatArray) -> "Orientation":
        """Of latents z (N, n) and standardised columns (N, d) of the fitted rows."""
        mean, scale = z.mean(axis=0), z.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        centered = standard - standard.mean(axis=0)
        norms = np.sqrt((centered**2).mean(axis=0))
        correlation = ((z - mean) / scale).T @ centered / len(z) / np.where(norms > 0, norms, 1.0)
        order = np.argsort(-(correlation**2).sum(axis=1), kind="stable")
        nearest = np.abs(correlation).argmax(axis=1)
        sign = np.where(correlation[np.arange(len(order)), nearest] < 0, -1.0, 1.0)
        return cls(order, mean[order], (sign / scale)[order])

    def reordered(self, order: IntArray) -> "Orientation":
        """The same sources in another order of latents."""
        place = np.argsort(self.order)[order]
        return Orientation(order, self.mean[place], self.factor[place])

    def matrix(self) -> tuple[FloatArray, FloatArray]:
        """Weight (n, n) and bias (n,) of the map z ↦ s."""
        weight = np.zeros((len(self.order), len(self.order)))
        weight[np.arange(len(self.order)), self.order] = self.factor
        return weight, -self.factor * self.mean
