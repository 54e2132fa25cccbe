"""What estimators return besides arrays: posteriors and log-likelihoods."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from identica.random import draw_seed
from identica.typing import FloatArray


@dataclass(frozen=True)
class Posterior:
    """q(z|x, u) of each row.

    Attributes
    ----------
    mean, std : arrays of shape (N, n)
        Posterior means and standard deviations, in units of the sources. A noiseless model has
        standard deviation 0.
    """

    mean: FloatArray
    std: FloatArray
    _draw: Callable[[int, np.random.Generator], FloatArray] | None = field(default=None, repr=False)

    def sample(self, n: int = 1, random_state: Any = None) -> FloatArray:
        """Draws of shape (n, N, n_components)."""
        rng = np.random.default_rng(draw_seed(random_state))
        if self._draw is not None:
            return self._draw(n, rng)
        return self.mean + self.std * rng.standard_normal((n, *self.mean.shape))


@dataclass(frozen=True)
class LogLikelihood:
    """A mean log-likelihood of rows.

    Attributes
    ----------
    value, standard_error : float
        Nats per row; the standard error is that of the mean over rows.
    kind : {"exact", "lower", "upper"}
        Whether the value is log p itself, or a bound of it.
    """

    value: float
    standard_error: float
    kind: Literal["exact", "lower", "upper"]

    @classmethod
    def from_rows(cls, rows: FloatArray, kind: Literal["exact", "lower", "upper"]) -> "LogLikelihood":
        """Mean and standard error of values per row (N,)."""
        error = float(rows.std(ddof=1) / np.sqrt(len(rows))) if len(rows) > 1 else float("nan")
        return cls(float(rows.mean()), error, kind)
