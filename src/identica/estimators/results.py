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


Kind = Literal["exact", "lower", "upper", "unsigned"]


@dataclass(frozen=True)
class Measured:
    """A mean over rows.

    Attributes
    ----------
    value, standard_error : float
        Nats per row; the standard error is that of the mean over rows.
    integration_error : float
        Standard error of the value for these very rows, by the samples or nodes of the integral alone;
        0 where it is exact.
    """

    value: float
    standard_error: float
    integration_error: float = 0.0

    @classmethod
    def of(cls, rows: FloatArray, variance: FloatArray | None = None) -> "Measured":
        """Of values per row (N,), and variances (N,) of their integrals."""
        error = float(rows.std(ddof=1) / np.sqrt(len(rows))) if len(rows) > 1 else float("nan")
        integral = 0.0 if variance is None else float(np.sqrt(variance.sum()) / len(rows))
        return cls(float(rows.mean()), error, integral)


@dataclass(frozen=True)
class LogLikelihood:
    """A mean log-likelihood of rows.

    Attributes
    ----------
    value, standard_error : float
        Nats per row; the standard error is that of the mean over rows.
    kind : {"exact", "lower", "upper", "unsigned"}
        Whether the value is log p itself, or in expectation a bound of it, or an approximation whose error
        has no sign.
    integration_error : float
        Standard error of the value for these very rows, by the samples or nodes of the integral alone. It
        does not show how far a bound is from log p.
    rows : array of shape (N,) or None
        The value of each row, nats.
    effective_sample_size : array of shape (N,) or None
        (Σw)²/Σw² of the importance weights of each row; of the chains for annealing; for Gauss-Hermite
        nodes the reciprocal of the largest share, below 2 where one node decides.
    pareto_k : array of shape (N,) or None
        Shape of the tail of each row's importance weights: below .5 good, above .7 not to be relied on.
    sandwich : Sandwich or None
        Bounds from both sides on rows simulated by the model.
    """

    value: float
    standard_error: float
    kind: Kind
    integration_error: float = 0.0
    rows: FloatArray | None = field(default=None, repr=False, compare=False)
    effective_sample_size: FloatArray | None = field(default=None, repr=False, compare=False)
    pareto_k: FloatArray | None = field(default=None, repr=False, compare=False)
    sandwich: "Sandwich | None" = None

    @classmethod
    def from_rows(
        cls, rows: FloatArray, kind: Kind, *, variance: FloatArray | None = None, **more: Any
    ) -> "LogLikelihood":
        """Mean and standard error of values per row (N,), whose integrals have variances (N,)."""
        mean = Measured.of(rows, variance)
        return cls(mean.value, mean.standard_error, kind, mean.integration_error, rows, **more)

    @property
    def unreliable_share(self) -> float | None:
        """Share of rows with a Pareto shape above .7; None where there is none."""
        return None if self.pareto_k is None else float((self.pareto_k > UNRELIABLE_K).mean())


UNRELIABLE_K = 0.7


@dataclass(frozen=True)
class Sandwich:
    """log p of rows that the model itself has drawn, from below and from above, by the same annealing.

    Attributes
    ----------
    lower, upper : LogLikelihood
        Of the same simulated rows.
    """

    lower: LogLikelihood
    upper: LogLikelihood

    @property
    def gap(self) -> float:
        """Upper minus lower bound, nats per row: in expectation at least the error of either."""
        return self.upper.value - self.lower.value


@dataclass(frozen=True)
class BoundGap:
    """Why the evidence lower bound is below log p(x|u): log p − ELBO = approximation + amortisation.

    Attributes
    ----------
    log_likelihood : LogLikelihood
    bound : Measured
        ELBO of the encoder's q.
    approximation : Measured
        log p − ELBO of the best q of the family: what the family cannot follow.
    amortisation : Measured
        ELBO of the best q − ELBO of the encoder's: what one network for all rows loses, or what
        Laplace's approximation does where that is the encoder.
    total : Measured
        Their sum. Where the log-likelihood is a lower bound, so are the total and the approximation gap.
    family : {"diagonal", "full"}
    converged : float
        Share of rows whose search ended for want of gain.
    """

    log_likelihood: LogLikelihood
    bound: Measured
    approximation: Measured
    amortisation: Measured
    total: Measured
    family: Literal["diagonal", "full"]
    converged: float


@dataclass(frozen=True)
class BoundDecomposition:
    """The evidence lower bound in three forms, each mean by samples of its own.

    Attributes
    ----------
    log_likelihood : LogLikelihood
        log p(x|u).
    posterior_divergence : Measured
        KL(q ‖ p(z|x, u)).
    reconstruction : Measured
        E_q log p(x|z).
    prior_divergence : Measured
        KL(q ‖ p(z|u)).
    energy : Measured
        E_q log p(x, z|u), in the units of the log-likelihood.
    entropy : Measured
        H(q).
    from_posterior, from_prior, from_entropy : Measured
        log p − KL(q ‖ posterior), reconstruction − KL(q ‖ prior), and energy + entropy: all the ELBO.
    """

    log_likelihood: LogLikelihood
    posterior_divergence: Measured
    reconstruction: Measured
    prior_divergence: Measured
    energy: Measured
    entropy: Measured
    from_posterior: Measured
    from_prior: Measured
    from_entropy: Measured

    @property
    def largest_difference(self) -> tuple[float, float]:
        """Largest difference between two of the forms, nats per row, and its integration error."""
        forms = (self.from_posterior, self.from_prior, self.from_entropy)
        pairs = [
            (abs(a.value - b.value), float(np.hypot(a.integration_error, b.integration_error)))
            for i, a in enumerate(forms)
            for b in forms[:i]
        ]
        return max(pairs)
