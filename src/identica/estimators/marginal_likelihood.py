"""Likelihoods of a fitted latent-variable model, and what separates the bound from them."""

from typing import Any

import numpy as np

from identica.errors import DataError
from identica.estimators.evaluator import Evaluator, checked_options
from identica.estimators.results import (
    BoundDecomposition,
    BoundGap,
    Kind,
    LogLikelihood,
    Measured,
    Sandwich,
)
from identica.estimators.validation import check_count
from identica.evaluation.bound_gap import Parts, bound_parts, fitted_bound
from identica.evaluation.importance import Weighed
from identica.typing import FloatArray

_SIMULATED_ROWS = 100
"""Most rows that are simulated for a sandwich: enough for a standard error of its gap."""


class MarginalLikelihood:
    """What every estimator has that keeps a `VariationalModel` in ``model_``."""

    _check_rows: Any
    _u_or_y: Any

    def log_likelihood(
        self,
        X: Any,
        y: Any = None,
        *,
        u: Any = None,
        method: str = "auto",
        n_samples: int | None = None,
        n_nodes: int | None = None,
        n_temperatures: int | None = None,
        n_chains: int | None = None,
        proposal: str | None = None,
        random_state: Any = None,
    ) -> LogLikelihood:
        """Mean log p(x|u) of rows with its standard error, nats per row.

        Parameters
        ----------
        X : array-like of shape (N, d)
        y, u : array-like, optional
            Auxiliary variable; without it log p(x), averaged over u.
        method : str
            ``"exact"``: closed form, for a linear Gaussian model. ``"importance"`` (or ``"iwae"``): lower
            bound by importance samples of the posterior, with the Pareto shape that says whether to trust
            it. ``"elbo"``: the evidence lower bound. ``"qmc"``: Sobol points where the posterior is, a lower
            bound in expectation. ``"gauss-hermite"``: adapted quadrature for up to 3 components, without a
            sign. ``"ais"``: annealed importance sampling, the reference in many dimensions, a lower bound in
            expectation. ``"sandwich"``: the same, and bounds from both sides on rows that the model itself
            draws, whose distance says how far annealing is from the truth. ``"auto"``: exact where that can
            be had, else importance.
        n_samples : int, optional
            Samples per row: 512 for importance, 64 for the ELBO; for quasi-Monte Carlo the points of each of
            eight randomisations, a power of two, 512.
        n_nodes : int, optional
            Gauss-Hermite nodes per direction: 40, 20 and 12 for 1, 2 and 3 components.
        n_temperatures, n_chains : int, optional
            Of annealing: 500 and 16.
        proposal : {"encoder", "laplace", "prior"}, optional
            Where samples, points or chains start: the encoder's posterior, Laplace's approximation with some
            of the prior mixed in, or the prior. By default the encoder's, for quasi-Monte Carlo Laplace's.
        random_state : int, None or RandomState
            None takes the seed of the fit. The noise of a row depends on the row alone.

        Returns
        -------
        LogLikelihood

        Raises
        ------
        ValueError
            If the method, the proposal or a number is none of those that exist.
        identica.DataError
            If the model does not admit the method, or the method has no such option.

        References
        ----------
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders. Vehtari et al. (2024), Pareto
        smoothed importance sampling. Wu, Burda, Salakhutdinov, Grosse (2017), On the quantitative analysis
        of decoder-based generative models. Liu, Pierce (1994), A note on Gauss-Hermite quadrature.
        """
        X, _ = self._check_rows(X)
        return _log_likelihood(
            self, X, self._u_or_y(u, y), method, random_state,
            n_samples=n_samples, n_nodes=n_nodes, n_temperatures=n_temperatures, n_chains=n_chains,
            proposal=proposal,
        )  # fmt: skip

    def bound_gap(
        self,
        X: Any,
        *,
        u: Any = None,
        method: str | None = None,
        family: str = "encoder",
        n_samples: int = 512,
        n_steps: int = 200,
        random_state: Any = None,
    ) -> BoundGap:
        """log p(x|u) − ELBO, split into what the family of q loses and what amortisation loses.

        For each row the best Gaussian q is sought, from the encoder's output (Cremer, Li, Duvenaud, 2018,
        Inference suboptimality in variational autoencoders, equation 6).

        Parameters
        ----------
        X : array-like of shape (N, d)
        u : array-like, optional
        method : str, optional
            Of log p, as in `log_likelihood`. By default exact where that can be had, else quasi-Monte Carlo
            for up to 8 components, else 5000 importance samples.
        family : {"encoder", "diagonal", "full"}
            Of the best q: that of the encoder, or the one that is named.
        n_samples : int
            Samples per row by which bounds are measured.
        n_steps : int
            Most steps of the search.
        random_state : int, None or RandomState
            None takes the seed of the fit.

        Raises
        ------
        identica.DataError
            If u is missing where the prior needs one.
        """
        X, _ = self._check_rows(X)
        return _bound_gap(
            self, X, u, method=method, family=family, n_samples=n_samples, n_steps=n_steps,
            random_state=random_state,
        )  # fmt: skip

    def bound_decomposition(
        self,
        X: Any,
        *,
        u: Any = None,
        method: str | None = None,
        n_samples: int = 512,
        random_state: Any = None,
    ) -> BoundDecomposition:
        """The ELBO as log p − KL(q ‖ posterior), reconstruction − KL(q ‖ prior), and energy + entropy.

        The three agree within their integration errors: each mean has samples of its own. Parameters are
        those of `bound_gap`.
        """
        X, _ = self._check_rows(X)
        return _bound_decomposition(self, X, u, method=method, n_samples=n_samples, random_state=random_state)


def _log_likelihood(
    estimator: Any, X: FloatArray, u: Any, method: str, random_state: Any, **options: Any
) -> LogLikelihood:
    given = checked_options(method, options)
    evaluator = Evaluator(estimator, X, u, random_state)
    result = _result(*evaluator.estimate(method, given))
    if method != "sandwich":
        return result
    twin, z = evaluator.simulated(_SIMULATED_ROWS)
    lower = _result(*twin.estimate("ais", given, "forwards"))
    upper = _result(twin.reverse(z, given), "upper")
    return LogLikelihood(**{**vars(result), "sandwich": Sandwich(lower, upper)})


def _bound_gap(
    estimator: Any,
    X: FloatArray,
    u: Any,
    *,
    method: str | None,
    family: str,
    n_samples: int,
    n_steps: int,
    random_state: Any,
) -> BoundGap:
    if family not in ("encoder", "diagonal", "full"):
        raise ValueError(f"family must be 'encoder', 'diagonal' or 'full', got {family!r}")
    count, steps = check_count("n_samples", n_samples), check_count("n_steps", n_steps)
    evaluator = Evaluator(estimator, X, u, random_state)
    if evaluator.without_u:
        raise DataError(
            "bound_gap needs u here: without it the posterior is a mixture over values of u, which has no best "
            "one of its family"
        )
    full = family == "full" or (family == "encoder" and not evaluator.is_diagonal())
    log_p, kind = _log_marginal(evaluator, method, "log p")
    found = evaluator.blocks(fitted_bound, count, full, steps, name="fitted")
    marginal = _Rows(log_p.value, log_p.variance)
    bound, best = (_Rows(*part).plus(evaluator.volume) for part in (found.bound, found.best))
    return BoundGap(
        _result(log_p, kind),
        bound.measured(),
        (marginal - best).measured(),
        _Rows(*found.gain).measured(),
        (marginal - bound).measured(),
        "full" if full else "diagonal",
        float(np.mean(found.converged)),
    )


def _bound_decomposition(
    estimator: Any,
    X: FloatArray,
    u: Any,
    *,
    method: str | None,
    n_samples: int,
    random_state: Any,
) -> BoundDecomposition:
    count = check_count("n_samples", n_samples)
    evaluator = Evaluator(estimator, X, u, random_state)
    log_p, kind = _log_marginal(evaluator, method, "log p")
    # KL(q ‖ posterior) has log p in it; a second estimate there keeps the equation from being an identity.
    other, _ = _log_marginal(evaluator, method, "log p again")
    parts: Parts = evaluator.blocks(bound_parts, count, name="parts")
    volume = evaluator.volume
    marginal = _Rows(log_p.value, log_p.variance)
    divergence = _Rows(other.value, other.variance) - _Rows(*parts.bound).plus(volume)
    reconstruction, prior_divergence = (
        _Rows(*parts.reconstruction).plus(volume),
        _Rows(*parts.prior_divergence),
    )
    energy, entropy = _Rows(*parts.energy).plus(volume), _Rows(*parts.entropy)
    return BoundDecomposition(
        _result(log_p, kind),
        *(
            part.measured()
            for part in (
                divergence,
                reconstruction,
                prior_divergence,
                energy,
                entropy,
                marginal - divergence,
                reconstruction - prior_divergence,
                energy + entropy,
            )
        ),
    )


class _Rows:
    """Independent estimates per row (N,) with their variances (N,)."""

    def __init__(self, value: Any, variance: Any):
        self.value, self.variance = np.asarray(value), np.asarray(variance)

    def __add__(self, other: "_Rows") -> "_Rows":
        return _Rows(self.value + other.value, self.variance + other.variance)

    def __sub__(self, other: "_Rows") -> "_Rows":
        return _Rows(self.value - other.value, self.variance + other.variance)

    def plus(self, constant: float) -> "_Rows":
        return _Rows(self.value + constant, self.variance)

    def measured(self) -> Measured:
        return Measured.of(self.value, self.variance)


def _log_marginal(evaluator: Evaluator, method: str | None, name: str) -> tuple[Weighed, Kind]:
    if method is None:
        return evaluator.best_estimate(name)
    checked_options(method, {})
    return evaluator.estimate(method, {}, name)


def _result(weighed: Weighed, kind: Kind) -> LogLikelihood:
    def where_there_is(values: Any) -> FloatArray | None:
        return None if np.isnan(values).all() else np.asarray(values)

    return LogLikelihood.from_rows(
        np.asarray(weighed.value),
        kind,
        variance=np.asarray(weighed.variance),
        effective_sample_size=where_there_is(weighed.effective_sample_size),
        pareto_k=where_there_is(weighed.pareto_k),
    )
