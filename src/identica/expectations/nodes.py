"""Weighted nodes: a Gaussian as finitely many points, shared by all rows and placed for each of them."""

import abc
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from identica.errors import DataError
from identica.expectations.pathwise import LogWeight, Reduce
from identica.typing import Array, Key

LARGEST_NODE_SHARE = 0.5
"""Largest normalised weight of one node above which a quadrature is not to be trusted."""


class PlacedNodes(NamedTuple):
    """Nodes of q.

    Attributes
    ----------
    z : (K, B, n)
        Nodes of each row; (K, 1, n) where q is the same for all rows, so that what depends on z alone
        is computed once.
    log_q : (K, B) or (K, 1)
        Their log-densities under q, nats.
    log_nodes : (K,)
        Logarithms of the node weights, which sum to 1.
    """

    z: Array
    log_q: Array
    log_nodes: Array


class WeightedNodes(abc.ABC):
    """Points t_k of N(0, I) with weights π_k, placed at m + R t_k for q = N(m, R Rᵀ).

    The value is the weighted reduction of the log weights: Σ_k π_k log w_k for the mean, and
    log Σ_k π_k w_k for the log-mean-exp. With w = p(x, z)/q(z) the latter is quadrature on the prior
    if q is the prior, and adaptive quadrature if q is a Gaussian fitted to the posterior: R's
    determinant and the Gaussian factor of the usual formula are those in 1/q. Its automatic gradient
    is that of this value; for the prior, or where q carries no gradient, it is Fisher's identity,
    Σ_k softmax_k(log π_k w_k) ∇ log p(x, z_k). Subclasses are frozen and hashable.
    """

    @abc.abstractmethod
    def standard(self, n: int, dtype: Any, *, key: Key | None) -> tuple[Array, Array]:
        """Points (K, n) and logarithms (K,) of weights that sum to 1, for N(0, I) in n dimensions."""

    @abc.abstractmethod
    def count(self, n: int) -> int:
        """Number K of nodes in n dimensions."""

    def placed(self, q: dist.Distribution, *, key: Key | None = None) -> PlacedNodes:
        """The nodes of q, with their log-densities and log-weights."""
        points, log_nodes = self.standard(q.event_shape[0], _dtype(q), key=key)
        return PlacedNodes(*place(q, points), log_nodes)

    def check_objective(self, *, weighted: bool, analytic: bool) -> None:  # noqa: B027 - any fits
        """As that of `Sampled`; a bound of any form may be built on nodes."""

    def __call__(
        self, q: dist.Distribution, log_weight: LogWeight, reduce: Reduce, *, key: Key | None = None
    ) -> Array:
        """The weighted reduction of log_weight over the nodes of q, nats (B,).

        Parameters
        ----------
        q : numpyro Distribution
            Gaussian with event shape (n,) and batch shape (B,) or ().
        log_weight : callable
            As for `Pathwise`.
        reduce : callable
            ``reduce(log_weights, log_nodes)``, such as `Mean` and `LogMeanExp`.
        key : Key, optional
            For nodes that are randomised.

        Raises
        ------
        DataError
            If q is not Gaussian.
        """
        z, log_q, log_nodes = self.placed(q, key=key)
        return reduce(log_weight(z, log_q), log_nodes)


def place(q: dist.Distribution, points: Array) -> tuple[Array, Array]:
    """z = m + R t and log q(z) of points t (K, n), for q = N(m, R Rᵀ) with batch shape (B,) or ().

    Returns
    -------
    z (K, B, n) and log q (K, B); for an empty batch shape (K, 1, n) and (K, 1).

    Raises
    ------
    DataError
        If q is not Gaussian.
    """
    if hasattr(q, "from_standard"):
        return q.from_standard(points)  # type: ignore[attr-defined]
    n = points.shape[-1]
    t = points[:, None, :]
    log_standard = -0.5 * (t**2).sum(-1) - 0.5 * n * math.log(2 * math.pi)
    base = _normal_of(q)
    if base is not None:
        location, scale = base
        z = location + scale * t
        log_q = log_standard - jnp.log(jnp.broadcast_to(scale, (*scale.shape[:-1], n))).sum(-1)
    elif isinstance(q, dist.MultivariateNormal):
        root = jnp.asarray(q.scale_tril)
        z = jnp.asarray(q.loc) + jnp.einsum("...ij,k...j->k...i", root, t)
        log_q = log_standard - jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
    else:
        raise DataError(
            f"quadrature nodes need a Gaussian with one vector per row, got {type(q).__name__}; "
            "use Pathwise samples, or importance samples of a Gaussian posterior"
        )
    return z, jnp.broadcast_to(log_q, z.shape[:-1])


def checked_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> None:
    """Refuse a number of nodes that is no integer in its range.

    Raises
    ------
    DataError
    """
    good = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not good or value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        raise DataError(f"{name} must be an integer of at least {least}{upper}, got {value!r}")


def _normal_of(q: Any) -> tuple[Array, Array] | None:
    """Location and scale of independent normal components, (…, n) or broadcast to it."""
    if not (isinstance(q, dist.Independent) and q.reinterpreted_batch_ndims == 1):
        return None
    base: Any = q.base_dist
    return (
        (jnp.asarray(base.loc), jnp.atleast_1d(jnp.asarray(base.scale)))
        if isinstance(base, dist.Normal)
        else None
    )


def _dtype(q: Any) -> Any:
    base = _normal_of(q)
    return jnp.result_type(q.mean if base is None else base[0])
