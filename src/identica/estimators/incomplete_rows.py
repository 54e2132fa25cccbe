"""The option ``missing`` of estimators with an encoder: rows of which some values were not observed."""

from typing import Any

import numpy as np

from identica.conditionals.observations.masked import with_mask
from identica.conditionals.observations.options import REAL
from identica.errors import DataError
from identica.estimators.validation import check_one_of
from identica.linear.missing import IncompleteGaussian
from identica.linear.whitening import Whitening, column_scale, round_to_grid
from identica.typing import FloatArray

_OPTIONS = ("error", "marginalise")


class IncompleteRows:
    """Standardising, and filling in, of rows with NaN; does nothing where ``missing`` is "error".

    Fitted with ``missing="marginalise"`` it has ``column_correlation_`` (d, d), the correlation of columns by
    maximum likelihood from the observed entries, by which unknown ones are filled in for the encoder.
    """

    likelihood: Any
    missing: Any = "error"
    whitening_: Whitening
    column_correlation_: FloatArray
    n_features_in_: int

    _n_scores: Any

    def _takes_unknown(self) -> bool:
        return self.missing == "marginalise"

    def _whiten(self, X: FloatArray) -> Whitening:
        check_one_of("missing", self.missing, _OPTIONS)
        if not self._takes_unknown():
            return Whitening.from_rows(X, self._n_scores())
        if self.likelihood not in REAL:
            raise DataError(
                f"missing='marginalise' is there for likelihood='gaussian' and 'student-t', not for "
                f"{self.likelihood!r}; drop rows with missing values, or fill them in"
            )
        center, scale = _observed_scale(X)
        gaussian = IncompleteGaussian.from_rows(round_to_grid((X - center) / scale))
        spread = np.sqrt(np.diag(gaussian.covariance))
        self.column_correlation_ = gaussian.covariance / np.outer(spread, spread)
        return Whitening.from_moments(
            center + scale * gaussian.mean, scale * spread, self.column_correlation_, self._n_scores()
        )

    def _masked(self, X: FloatArray, *, grid: bool = False) -> FloatArray:
        """Rows with a mask (N, 2d), standardised, from rows in the user's units with NaN."""
        standard = self.whitening_.standardize(X)
        gaussian = IncompleteGaussian(np.zeros(X.shape[1]), self.column_correlation_)
        filled = gaussian.filled(standard)
        return with_mask(round_to_grid(filled) if grid else filled, ~np.isnan(X))


def _observed_scale(X: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the observed entries of each column."""
    columns = [column_scale(column[~np.isnan(column)][:, None]) for column in X.T]
    center, scale = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return center, scale
