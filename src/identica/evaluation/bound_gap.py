"""What the evidence lower bound is made of, and what keeps it below log p(x|u)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from identica.compilation import compiled
from identica.data import Dataset
from identica.descent import descend
from identica.errors import DataError
from identica.evaluation.target import RowLaw, Target, over_rows
from identica.expectations import place
from identica.expectations.balanced import Balanced
from identica.models import VariationalModel
from identica.typing import Array, Key

_MEMORY = 10
_TOLERANCE = 1e-6


class Fitted(NamedTuple):
    """Bounds of one row: that of the encoder's q, and that of the best q of its family.

    Attributes
    ----------
    bound, best, gain : (B,) pairs
        E_q[log p(x, z|u) − log q(z)] of the encoder's q, of the best one, and what the latter gains, nats,
        by the same standard normal samples; each with the variance of that mean over samples.
    converged : (B,) bool
        Whether the search ended for want of gain.
    """

    bound: tuple[Array, Array]
    best: tuple[Array, Array]
    gain: tuple[Array, Array]
    converged: Array


@compiled
def fitted_bound(
    system: VariationalModel, x: Array, u: Array | None, keys: Array, count: int, full: bool, steps: int
) -> Fitted:
    """The best Gaussian q of each row, found by optimisation from the encoder's output.

    With q = N(m + A a, A R Rᵀ Aᵀ), A a square root of the encoder's covariance and R lower triangular, a
    row's bound at fixed, balanced points is maximised over a and R by L-BFGS: in these coordinates
    curvatures are near 1. Fresh samples then measure what was gained.

    Parameters
    ----------
    system : VariationalModel
    x : (B, d)
    u : (B, …) or None
    keys : (B, …)
        Raw key data, one key per row.
    count : int
        Samples per row by which bounds are measured.
    full : bool
        Whether R is triangular; otherwise A and R are diagonal.
    steps : int
        Most steps of the search.

    Raises
    ------
    DataError
        If the encoder's posterior is not one Gaussian per row.
    """

    def one(target: Target, key: Key) -> Fitted:
        own = _encoder_gaussian(target)
        n = len(own.mean)
        root = own.root if full else jnp.diag(own.scale)
        lower = jnp.tril_indices(n, -1)
        points = Balanced(max(64, 8 * n)).standard(n, own.mean.dtype)[0]

        def placed(parameters: Array, points: Array) -> tuple[Array, Array]:
            """Points as draws of q, and log|det R|."""
            shift, log_diagonal, rest = jnp.split(parameters, [n, 2 * n])
            turn = jnp.diag(jnp.exp(log_diagonal))
            turn = turn.at[lower].set(rest) if full else turn
            inner = jnp.matmul(points, turn.T, precision="highest") + shift
            return own.mean + jnp.matmul(inner, root.T, precision="highest"), log_diagonal.sum()

        def loss(parameters: Array) -> Array:
            z, log_det = placed(parameters, points)
            return -target.log_joint(z).mean() - log_det

        origin = jnp.zeros(2 * n + (len(lower[0]) if full else 0), own.mean.dtype)
        found = descend(
            jax.vmap(jax.value_and_grad(loss)), origin[None], steps, memory=_MEMORY, tolerance=_TOLERANCE
        )
        fresh = jax.random.normal(key, (count, n), own.mean.dtype)
        # −log q(z) of z = m + L ε is log|det L| + |ε|²/2 + …: the best control of the noise in log p(x, z).
        minus_log_q = own.log_det + 0.5 * ((fresh**2).sum(1) + n * math.log(2 * math.pi))
        before = target.log_joint(own.mean + jnp.matmul(fresh, own.root.T, precision="highest")) + minus_log_q
        z, log_det = placed(found.x[0], fresh)
        log_det = log_det if full else log_det + jnp.log(own.scale).sum() - own.log_det
        after = target.log_joint(z) + minus_log_q + log_det
        bound, best, gain = ((v.mean(), v.var() / max(count - 1, 1)) for v in (before, after, after - before))
        return Fitted(bound, best, gain, found.converged[0])

    return over_rows(one, system, Dataset(x, u), keys)


class Parts(NamedTuple):
    """Terms of the evidence lower bound of each row, nats (B,), and their variances over samples.

    Every mean is taken over samples of its own, so that equations between them hold within their errors
    and not by construction. Divergences and entropies are exact where a closed form is known; their variance
    is then 0.

    Attributes
    ----------
    reconstruction : (B,) pair
        E_q log p(x|z), and its variance.
    prior_divergence
        KL(q ‖ p(z|u)).
    energy
        E_q log p(x, z|u).
    entropy
        H(q).
    bound
        E_q[log p(x, z|u) − log q(z|x, u)].
    """

    reconstruction: tuple[Array, Array]
    prior_divergence: tuple[Array, Array]
    energy: tuple[Array, Array]
    entropy: tuple[Array, Array]
    bound: tuple[Array, Array]


@compiled
def bound_parts(system: VariationalModel, x: Array, u: Array | None, keys: Array, count: int) -> Parts:
    """The terms of the bound of each row, by `count` samples of q for each; arguments as `fitted_bound`."""

    def one(target: Target, key: Key) -> Parts:
        keys = jax.random.split(key, 5)

        def average(place: int, value: Any) -> tuple[Array, Array]:
            values = value(*target.posterior.sample_with_log_prob(keys[place], count))
            return values.mean(), values.var() / max(count - 1, 1)

        entropy = _entropy(target)
        divergence = None if entropy is None else _divergence_from_prior(target, entropy)
        zero = jnp.zeros((), target.x.dtype)
        return Parts(
            average(0, lambda z, _: target.log_likelihood(z)),
            average(1, lambda z, log_q: log_q - target.prior.log_prob(z))
            if divergence is None
            else (divergence, zero),
            average(2, lambda z, _: target.log_joint(z)),
            average(3, lambda _, log_q: -log_q) if entropy is None else (entropy, zero),
            average(4, lambda z, log_q: target.log_joint(z) - log_q),
        )

    return over_rows(one, system, Dataset(x, u), keys)


class _Gaussian(NamedTuple):
    """One Gaussian: mean (n,), a square root (n, n) of its covariance, standard deviations (n,), log|det root|."""

    mean: Array
    root: Array
    scale: Array
    log_det: Array


def _encoder_gaussian(target: Target) -> _Gaussian:
    law = target.posterior
    if not isinstance(law, RowLaw):
        raise DataError("without u the posterior is a mixture, which has no best one of its family; pass u")
    mean, variance = law.moments()
    n = len(mean)
    entropy = _entropy(target)
    if (
        entropy is None
    ):  # not a Gaussian, as of a flow: the one with its covariance is where the search begins
        root = jnp.linalg.cholesky(law.given.covariance_matrix.reshape(n, n))  # type: ignore[attr-defined]
        return _Gaussian(mean, root, jnp.sqrt(variance), jnp.log(jnp.diagonal(root)).sum())
    z = place(law.given, jnp.eye(n, dtype=mean.dtype))[0].reshape(n, n)
    log_det = entropy - 0.5 * n * (1 + math.log(2 * math.pi))
    return _Gaussian(mean, (z - mean).T, jnp.sqrt(variance), log_det)


def _entropy(target: Target) -> Array | None:
    if not isinstance(target.posterior, RowLaw):
        return None
    try:
        return jnp.asarray(target.posterior.given.entropy()).reshape(())
    except NotImplementedError:
        return None


def _divergence_from_prior(target: Target, entropy: Array) -> Array | None:
    """KL(q ‖ p) for a prior of independent Gaussians: only q's means and variances enter E_q log p."""
    if not target.prior.is_gaussian():
        return None
    (mean, variance), (center, spread) = target.posterior.moments(), target.prior.moments()
    expected = -0.5 * (jnp.log(2 * jnp.pi * spread) + ((mean - center) ** 2 + variance) / spread)
    return -entropy - expected.sum()
