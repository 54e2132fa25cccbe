"""Amortised posteriors q(z|x, u)."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.linalg import block_diag

from identica.conditionals.base import Conditional, Evidence
from identica.conditionals.observations.discrete import one_hot_columns
from identica.conditionals.observations.masked import split_mask
from identica.conditionals.precision_gaussian import PrecisionGaussian
from identica.conditionals.small_matrices import product, transpose
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array, FloatArray, Key

_NOTHING = 1e-4
"""Square root of the precision with which a row without any entry says something of z: next to none."""


class Features(eqx.Module):
    """A fixed map from observations to what an encoder's network sees; it is not trained.

    Attributes
    ----------
    center : (d,)
    matrix : (d, r)
    encoding : {"identity", "root", "squash", "one-hot", "masked", "masked-squash"}
        What is done to x first: nothing; √(x + 3/8), which makes the variance of counts nearly constant
        (Anscombe, 1948); 5 tanh(x / 5), which leaves all but gross errors of standardised columns as they
        are; or one indicator per category of columns of codes. The last two take rows with a mask, of which
        the values are left as they are or squashed.
    sizes : tuple of int
        Categories of each column, for ``"one-hot"``.
    """

    center: Array
    matrix: Array
    encoding: str = eqx.field(static=True, default="identity")
    sizes: tuple[int, ...] = eqx.field(static=True, default=())

    def __call__(self, x: Array) -> Array:
        """(…, d) to (…, r)."""
        x = encoded_columns(x, self.encoding, self.sizes)
        center, matrix = jax.lax.stop_gradient((self.center, self.matrix))
        return (x - center) @ matrix

    def anything_seen(self, x: Array) -> Array | None:
        """Which rows (B,) of x (B, 2d) hold an entry that was seen; None for rows without a mask."""
        return (split_mask(x)[1] > 0).any(-1) if self.encoding.startswith("masked") else None


def encoded_columns(x: Array, encoding: str, sizes: tuple[int, ...] = ()) -> Array:
    """Columns as features take them in; see `Features`."""
    if encoding == "root":
        return jnp.sqrt(x + 0.375)
    if encoding == "squash":
        return 5.0 * jnp.tanh(x / 5.0)
    if encoding == "masked-squash":
        values, seen = split_mask(x)
        return jnp.concatenate([5.0 * jnp.tanh(values / 5.0), seen], axis=-1)
    return one_hot_columns(x, sizes) if encoding == "one-hot" else x


class DiagonalEncoder(Conditional):
    """q(z|x) = N(m(x), diag s²(x)): two heads of one network of x.

    Attributes
    ----------
    features : Features
    network : MultilayerPerceptron
        2n outputs: means, then log-variances.
    """

    features: Features
    network: MultilayerPerceptron

    @classmethod
    def random(
        cls,
        features: Features,
        hidden_sizes: tuple[int, ...],
        n: int,
        *,
        activation: str = "silu",
        log_variance: float = -2.0,
        key: Key,
    ) -> "DiagonalEncoder":
        """A network with a linear shortcut; its variances start at exp(`log_variance`)."""
        network = MultilayerPerceptron.random(
            features.matrix.shape[1],
            hidden_sizes,
            2 * n,
            activation=activation,
            shortcut=True,
            last_scale=0.1,
            key=key,
        )
        bias = np.concatenate([np.zeros(n), np.full(n, log_variance)]).astype(network.biases[-1].dtype)
        return cls(features, eqx.tree_at(lambda m: m.biases[-1], network, bias))

    def __call__(self, context: Evidence) -> dist.Distribution:
        """q(z|x) for x (B, d): batch shape (B,), event shape (n,); u is not used."""
        out = self.network(self.features(context.x))
        seen = self.features.anything_seen(context.x)
        if seen is not None:  # of which nothing is known is N(0, I)
            out = jnp.where(seen[:, None], out, 0.0)
        mean, log_variance = jnp.split(out, 2, axis=-1)
        return dist.Normal(mean, jnp.exp(0.5 * log_variance)).to_event(1)


class Factor(NamedTuple):
    """What x alone says about z: a Gaussian factor with mean m and precision Λ = L Lᵀ.

    Attributes
    ----------
    mean : (n, B)
        m, rows last.
    root : (n, n, B)
        L, a square root of the precision, not necessarily triangular, rows last.
    """

    mean: Array
    root: Array

    @property
    def precision(self) -> Array:
        """Λ, (n, n, B)."""
        return product(self.root, transpose(self.root))


class ProductOfExperts(Conditional):
    """q(z|x, u) ∝ N(m(x); z, Λ(x)⁻¹) p(z|u): a learned likelihood factor times the prior.

    By Bayes' rule the true posterior has this form. With a Gaussian prior N(μ_u, D_u) the product is
    N(E, P⁻¹) with P = Λ + D_u⁻¹ and E = P⁻¹(Λ m + D_u⁻¹ μ_u), covariance and all; a diagonal posterior
    would keep the latents rotated toward orthogonal columns of the decoder's Jacobian. Another prior
    enters by its mean and variance.

    The square root of Λ is G(x) diag(exp s(x)) with a general matrix G, so that a linear change of z
    is absorbed exactly by the last layer.

    Attributes
    ----------
    features : Features
    network : MultilayerPerceptron
        n + n² + n outputs: m, G by rows, s.
    hold : scalar array
        1 holds m fixed in training while all else learns, 0 lets it go; not trained itself.
    n_components : int
        Dimension n of z.
    """

    features: Features
    network: MultilayerPerceptron
    hold: Array
    n_components: int = eqx.field(static=True)

    @classmethod
    def random(
        cls,
        features: Features,
        hidden_sizes: tuple[int, ...],
        n: int,
        *,
        activation: str = "leaky_relu",
        log_precision: float = 2.0,
        key: Key,
    ) -> "ProductOfExperts":
        """A network with a linear shortcut; Λ starts near exp(`log_precision`) · I."""
        network = MultilayerPerceptron.random(
            features.matrix.shape[1],
            hidden_sizes,
            n + n * n + n,
            activation=activation,
            shortcut=True,
            last_scale=0.1,
            key=key,
        )
        dtype = network.biases[-1].dtype
        bias = np.concatenate([np.zeros(n), np.eye(n).ravel(), np.full(n, 0.5 * log_precision)])
        network = eqx.tree_at(lambda m: m.biases[-1], network, bias.astype(dtype))
        return cls(features, network, np.zeros((), dtype), n)  # type: ignore[arg-type]

    def mean(self, x: Array) -> Array:
        """m(x), (B, n): what x alone says about z."""
        return self._held(self.network(self.features(x))[:, : self.n_components])

    def factor(self, x: Array) -> Factor:
        """The likelihood factor of x (B, d)."""
        n = self.n_components
        out = self.network(self.features(x)).T
        root = out[n : n + n * n].reshape(n, n, -1) * jnp.exp(out[n + n * n :])
        seen = self.features.anything_seen(x)
        if seen is not None:
            nothing = _NOTHING * jnp.eye(n, dtype=root.dtype)[:, :, None]
            root = jnp.where(seen, root, nothing)
        return Factor(self._held(out[:n]), root)

    def _held(self, mean: Array) -> Array:
        hold = jax.lax.stop_gradient(self.hold)
        return (1 - hold) * mean + hold * jax.lax.stop_gradient(mean)

    def __call__(self, context: Evidence) -> PrecisionGaussian:
        """q(z|x, u): batch shape (B,), event shape (n,)."""
        return posterior_of(self.factor(context.x), context.prior)

    # Surgery between stages runs on the host: it happens once, and compiling it would cost more.

    def with_mean_changed(self, weight: FloatArray, bias: FloatArray) -> "ProductOfExperts":
        """The encoder whose mean is weight · m + bias, with the precision left as it is."""
        n = self.n_components
        return self._turned(weight, bias, np.eye(n * n))

    def changed_basis(self, weight: FloatArray, bias: FloatArray | None = None) -> "ProductOfExperts":
        """The encoder of z' = weight · z + bias, exactly: m' = W m + b, G' = W⁻ᵀ G."""
        n = self.n_components
        bias = np.zeros(n) if bias is None else bias
        return self._turned(weight, bias, np.kron(np.linalg.inv(weight), np.eye(n)))

    def _turned(self, weight: FloatArray, bias: FloatArray, root: FloatArray) -> "ProductOfExperts":
        n = self.n_components
        dtype = np.asarray(self.network.biases[-1]).dtype
        change = np.asarray(block_diag(weight.T, root, np.eye(n)), dtype)
        shift = np.concatenate([bias, np.zeros(n * n + n)]).astype(dtype)
        host = jax.tree.map(np.asarray, self.network)
        return ProductOfExperts(self.features, host.followed_by(change, shift), self.hold, n)

    def holding(self, hold: bool) -> "ProductOfExperts":
        """The encoder with its mean held fixed in training, or let go."""
        dtype = np.asarray(self.hold).dtype
        return ProductOfExperts(self.features, self.network, jnp.asarray(hold, dtype), self.n_components)


def posterior_of(factor: Factor, prior: dist.Distribution) -> PrecisionGaussian:
    """The normalised product of a likelihood factor and a prior of the same rows (or of one row)."""
    n, n_rows = factor.mean.shape
    prior_mean, prior_precision = rows_last_moments(prior, n_rows)
    identity = jnp.eye(n, dtype=factor.mean.dtype)[:, :, None]
    precision = factor.precision + prior_precision[:, None] * identity
    weighted = product(factor.root, product(transpose(factor.root), factor.mean[:, None]))[:, 0]
    return PrecisionGaussian.from_precision(precision, weighted + prior_precision * prior_mean)


def log_evidence(factor: Factor, prior: dist.Distribution, posterior: PrecisionGaussian) -> Array:
    """log ∫ N(m; z, Λ⁻¹) p(z|u) dz = log N(m; μ_u, D_u + Λ⁻¹), nats (B,), for Gaussian priors.

    Written as residuals at the posterior mean, a sum of positive terms that float32 can carry.
    """
    n, n_rows = factor.mean.shape
    prior_mean, prior_precision = rows_last_moments(prior, n_rows)
    mean = posterior.mean.T
    back = product(transpose(factor.root), (factor.mean - mean)[:, None])[:, 0]
    squares = (back**2).sum(0) + (prior_precision * (mean - prior_mean) ** 2).sum(0)
    log_det_factor = 2 * jnp.linalg.slogdet(jnp.moveaxis(factor.root, -1, 0))[1]
    log_det_posterior = 2 * jnp.log(jnp.diagonal(posterior.factor)).sum(-1)
    log_det = log_det_factor + jnp.log(prior_precision).sum(0) - log_det_posterior
    return 0.5 * (log_det - squares - n * math.log(2 * math.pi))


def rows_last_moments(prior: dist.Distribution, n_rows: int) -> tuple[Array, Array]:
    """Means and precisions of a prior as (n, B)."""
    shape = (n_rows, *prior.event_shape)
    mean, variance = jnp.broadcast_to(prior.mean, shape), jnp.broadcast_to(prior.variance, shape)
    return mean.T, 1.0 / variance.T
