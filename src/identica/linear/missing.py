"""A Gaussian fitted to incomplete rows, and the conditional means of what is missing in them."""

from dataclasses import dataclass

import numpy as np

from identica.typing import FloatArray

_LARGEST_WORK = 2e9
"""Rows × columns³ of one step: fewer rows are taken where there are many columns, but four per column at least."""

_BLOCK = 2**22
_RIDGE = 1e-6
"""Added to variances in units of standardised columns: noiseless rows have a singular covariance."""


@dataclass(frozen=True)
class IncompleteGaussian:
    """N(mean, covariance) of rows of which some entries are unknown (NaN).

    Attributes
    ----------
    mean : (d,)
    covariance : (d, d)
    """

    mean: FloatArray
    covariance: FloatArray

    @classmethod
    def from_rows(
        cls, x: FloatArray, *, iterations: int = 100, tolerance: float = 1e-4
    ) -> "IncompleteGaussian":
        """Maximum likelihood from the observed entries, by expectation-maximisation.

        Right wherever what is missing depends on what is observed only (missing at random), where
        means over observed entries are not.

        Parameters
        ----------
        x : (N, d)
            Of columns with a spread near 1; NaN where unknown.
        iterations : int
            At most so many steps.
        tolerance : float
            Least change of any moment that is worth another step.

        References
        ----------
        Dempster, Laird, Rubin (1977), section 4.1.3. Little, Rubin (2002), Statistical analysis with missing
        data, section 11.2.
        """
        d = x.shape[1]
        x = x[: max(int(_LARGEST_WORK / d**3), 4 * d)]
        fit = cls(np.nanmean(x, axis=0), np.diag(np.nanvar(x, axis=0) + _RIDGE))
        for _ in range(iterations if np.isnan(x).any() else 1):
            filled, spread = fit._completed(x)
            mean = filled.mean(axis=0)
            covariance = (filled - mean).T @ (filled - mean) / len(x) + spread / len(x)
            change = max(np.abs(mean - fit.mean).max(), np.abs(covariance - fit.covariance).max())
            fit = cls(mean, covariance)
            if change < tolerance:
                break
        return fit

    def filled(self, x: FloatArray) -> FloatArray:
        """x (N, d) with its unknown entries at their means given the known ones of the row."""
        return self._completed(x)[0] if np.isnan(x).any() else x

    def _completed(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Filled rows (N, d), and the sum over rows of the covariances of what was filled in (d, d)."""
        d = x.shape[1]
        seen = ~np.isnan(x)
        centred = np.where(seen, x - self.mean, 0.0)
        filled = x.copy()
        spread = np.zeros((d, d))
        identity = np.eye(d)
        size = max(1, _BLOCK // d**2)
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            patterns, which = np.unique(seen[rows], axis=0, return_inverse=True)
            known = patterns[:, :, None] & patterns[:, None, :]
            # Unknown columns become the identity, so that all patterns are solved as one batch.
            system = np.where(known, self.covariance + _RIDGE * identity, identity)
            # Regression of unknown columns on known ones, 0 elsewhere.
            cross = np.where(patterns[:, :, None] & ~patterns[:, None, :], self.covariance, 0.0)
            slope = np.linalg.solve(system, cross)
            which = which.ravel()
            estimate = np.einsum("ni,nij->nj", centred[rows], slope[which])
            filled[rows] = np.where(seen[rows], x[rows], self.mean + estimate)
            unknown = ~patterns[:, :, None] & ~patterns[:, None, :]
            left = np.where(unknown, self.covariance - np.swapaxes(cross, 1, 2) @ slope, 0.0)
            spread += np.einsum("p,pij->ij", np.bincount(which, minlength=len(patterns)), left)
        return filled, spread
