"""Gaussian mixtures: Σ_k w_k N(x; μ_k, Σ_k) with spherical, diagonal or full covariances."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from identica.conditionals.small_matrices import cholesky_with_inverse
from identica.typing import Array, Key

COVARIANCES = ("spherical", "diagonal", "full")


class GaussianMixtureModel(eqx.Module):
    """p(x) = Σ_k w_k N(x; μ_k, Σ_k) with Σ_k = floor · I + L_k L_kᵀ.

    The form keeps every covariance above the floor without a constraint, for updates and for gradients
    alike; without a floor the likelihood of a component on one row is unbounded.

    Attributes
    ----------
    log_weights : (K,)
        Up to a common constant.
    means : (K, d)
    roots : (K,), (K, d) or (K, d, d)
        L_k: a number, a diagonal or a matrix.
    floor : float
        Smallest eigenvalue of any Σ_k.
    """

    log_weights: Array
    means: Array
    roots: Array
    floor: float = eqx.field(static=True)

    @classmethod
    def from_responsibilities(
        cls, x: Array, responsibilities: Array, *, covariance: str, floor: float
    ) -> "GaussianMixtureModel":
        """The M-step: the most likely mixture given how rows belong to components.

        Eigenvalues of a covariance below the floor are raised to it, which is the most likely
        covariance above the floor (Ingrassia, 2004), so that the likelihood cannot fall.

        Parameters
        ----------
        x : (N, d)
        responsibilities : (N, K)
            Rows sum to the weight of a row.
        covariance : {"spherical", "diagonal", "full"}
        floor : float
        """
        counts = jnp.maximum(responsibilities.sum(0), 10 * jnp.finfo(x.dtype).eps)
        means = (responsibilities.T @ x) / counts[:, None]

        def root(part: tuple[Array, Array, Array]) -> Array:
            mean, share, count = part
            centred = x - mean
            if covariance == "full":
                values, vectors = jnp.linalg.eigh((centred * share[:, None]).T @ centred / count)
                return vectors * jnp.sqrt(jnp.maximum(values - floor, 0.0))
            variance = (share[:, None] * centred**2).sum(0) / count
            variance = variance.mean() if covariance == "spherical" else variance
            return jnp.sqrt(jnp.maximum(variance - floor, 0.0))

        # One component after another: memory stays that of the rows, and no routine is called in batches.
        roots = jax.lax.map(root, (means, responsibilities.T, counts))
        return cls(jnp.log(counts / counts.sum()), means, roots, floor)

    @property
    def covariances(self) -> Array:
        """Σ_k, of the shape of `roots`."""
        if self.roots.ndim < 3:
            return self.floor + self.roots**2
        d = self.means.shape[1]
        return self.floor * jnp.eye(d, dtype=self.roots.dtype) + self.roots @ jnp.swapaxes(self.roots, 1, 2)

    def log_joint(self, x: Array) -> Array:
        """log w_k + log N(x; μ_k, Σ_k) of rows x (N, d), nats (N, K)."""
        d = x.shape[1]
        if self.roots.ndim == 3:
            factor, inverse = cholesky_with_inverse(jnp.moveaxis(self.covariances, 0, -1))
            log_det = jnp.log(jnp.diagonal(factor)).sum(-1)
            to_white = jnp.moveaxis(inverse, -1, 0)
            squares = lambda p: (((x - p[0]) @ p[1].T) ** 2).sum(-1)
        else:
            variance = jnp.broadcast_to(self.covariances.reshape(len(self.means), -1), self.means.shape)
            log_det, to_white = 0.5 * jnp.log(variance).sum(-1), 1 / variance
            squares = lambda p: ((x - p[0]) ** 2 * p[1]).sum(-1)
        distance = jax.lax.map(squares, (self.means, to_white))
        weight = jax.nn.log_softmax(self.log_weights) - log_det - 0.5 * d * math.log(2 * math.pi)
        return weight - 0.5 * distance.T

    def log_prob(self, x: Array) -> Array:
        """log p(x) of rows (N, d), nats (N,)."""
        return jax.nn.logsumexp(self.log_joint(x), axis=1)

    def sample(self, n_rows: int, *, key: Key) -> tuple[Array, Array]:
        """Rows (N, d) and the component (N,) that each was drawn from."""
        which_key, root_key, floor_key = jax.random.split(key, 3)
        which = jax.random.categorical(which_key, self.log_weights, shape=(n_rows,))
        noise, rest = (
            jax.random.normal(k, (n_rows, self.means.shape[1]), self.means.dtype)
            for k in (root_key, floor_key)
        )
        if self.roots.ndim == 3:
            spread = jnp.einsum("nij,nj->ni", self.roots[which], noise)
        else:
            spread = self.roots.reshape(len(self.means), -1)[which] * noise
        return self.means[which] + spread + math.sqrt(self.floor) * rest, which
