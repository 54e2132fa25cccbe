"""The linear Gaussian decoder, whose posterior and likelihood are exact."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from identica.conditionals import (
    Conditional,
    Decoder,
    Features,
    GaussianObservation,
    ModulatedPrior,
    ProductOfExperts,
)
from identica.conditionals.observations import NOISE_FLOOR
from identica.families import as_distribution
from identica.models.latent_variable import LatentVariableModel
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array, FloatArray


class LinearGaussian(NamedTuple):
    """x = z W + c + noise of variance Ψ, in float64.

    Attributes
    ----------
    weight : (n, d)
    bias : (d,)
    noise : (d,)
        Diagonal of Ψ.
    """

    weight: FloatArray
    bias: FloatArray
    noise: FloatArray

    @classmethod
    def of(cls, decoder: Conditional) -> "LinearGaussian | None":
        """The parts of a decoder that is linear and Gaussian with constant noise; None for any other."""
        if not isinstance(decoder, Decoder) or not isinstance(decoder.observation, GaussianObservation):
            return None
        network, observation = decoder.network, decoder.observation
        if not isinstance(network, MultilayerPerceptron):
            return None
        if len(network.weights) > 1 or observation.noise in ("scalar-network", "network"):
            return None
        only_weight: Array = next(iter(network.weights))
        only_bias: Array = next(iter(network.biases))
        weight, bias = np.asarray(only_weight, np.float64), np.asarray(only_bias, np.float64)
        if observation.log_variance is None:
            noise = np.full(weight.shape[1], NOISE_FLOOR + observation.variance)
        else:
            log_variance = np.asarray(observation.log_variance, np.float64)
            noise = NOISE_FLOOR + np.exp(np.broadcast_to(log_variance, weight.shape[1:]))
        return cls(weight, bias, noise)

    def log_marginal(self, x: FloatArray, mean: FloatArray, variance: FloatArray) -> FloatArray:
        """log N(x; μ W + c, Wᵀ D W + Ψ) of rows x (B, d) with prior moments μ, D (B, n), nats (B,).

        Written with the posterior mean m as |x − m W − c|²/Ψ + |m − μ|²/D, a sum of squares: the usual
        difference of squares loses all digits where noise is small (Bishop, 2006, section 2.3.3).
        """
        scaled = self.weight / self.noise
        precision = scaled @ self.weight.T + np.eye(len(self.weight)) / variance[:, None, :]
        shift = (x - self.bias) @ scaled.T + mean / variance
        z = np.linalg.solve(precision, shift[..., None])[..., 0]
        squares = ((x - self.bias - z @ self.weight) ** 2 / self.noise).sum(1)
        squares += ((z - mean) ** 2 / variance).sum(1)
        log_det = np.log(self.noise).sum() + np.log(variance).sum(1) + np.linalg.slogdet(precision)[1]
        return -0.5 * (squares + log_det + len(self.bias) * np.log(2 * np.pi))


def exact_log_marginal(model: LatentVariableModel, x: FloatArray, u: FloatArray | None) -> FloatArray | None:
    """log p(x|u) of rows x (B, d), nats (B,), for a linear Gaussian decoder and a Gaussian prior.

    Without u, where the prior needs one, log p(x) = log Σ_u p(u) p(x|u). None for any other model.
    """
    decoder = LinearGaussian.of(model.likelihood)
    if decoder is None:
        return None
    prior = model.prior
    x = np.asarray(x, np.float64)
    if u is None and isinstance(prior, ModulatedPrior):
        natural, log_weights = prior.parts()
        moments = _gaussian_moments(as_distribution(prior.family, natural).to_event(1), len(natural))
        if moments is None:
            return None
        log_p = np.full(len(x), -np.inf)
        for mean, variance, log_weight in zip(*moments, np.asarray(log_weights, np.float64), strict=True):
            one = decoder.log_marginal(x, mean[None], variance[None])
            log_p = np.logaddexp(log_p, log_weight + one)
        return log_p
    moments = _gaussian_moments(prior(None if u is None else jnp.asarray(u)), len(x))
    return None if moments is None else decoder.log_marginal(x, *moments)


def _gaussian_moments(prior: dist.Distribution, n_rows: int) -> tuple[FloatArray, FloatArray] | None:
    """Means and variances (B, n) of independent Gaussian components; None if they are anything else."""
    base = prior.base_dist if isinstance(prior, dist.Independent) else prior
    if not isinstance(base, dist.Normal):
        return None
    shape = (n_rows, *prior.event_shape)
    mean, variance = (
        np.asarray(jnp.broadcast_to(jnp.asarray(m), shape), np.float64) for m in (base.mean, base.variance)
    )
    return mean, variance


def exact_encoder(decoder: Conditional) -> ProductOfExperts | None:
    """The encoder whose posterior is exact, if p(x|z) is linear and Gaussian with constant noise.

    For x = z W + c + noise of variance Ψ the likelihood as a function of z has precision
    Λ = W Ψ⁻¹ Wᵀ and mean m(x) = Λ⁻¹ W Ψ⁻¹ (x − c) (Bishop, 2006, section 12.2). With a Gaussian prior the
    variational bound then equals log p(x|u). Returns None for any other decoder.
    """
    parts = LinearGaussian.of(decoder)
    if parts is None:
        return None
    weight, bias, noise = parts
    dtype = decoder.network.weights[0].dtype  # type: ignore[attr-defined]
    n, d = weight.shape
    precision = (weight / noise) @ weight.T
    # A component that the decoder ignores has precision 0; the ridge keeps its m finite.
    precision += 1e-7 * np.trace(precision) / n * np.eye(n)
    to_mean = np.linalg.solve(precision, weight / noise).T
    out = np.concatenate([to_mean, np.zeros((d, n * n + n))], axis=1)
    root = np.linalg.cholesky(precision)
    start = np.concatenate([-bias @ to_mean, root.ravel(), np.zeros(n)])
    linear = MultilayerPerceptron((jnp.asarray(out, dtype),), (jnp.asarray(start, dtype),), None)
    features = Features(jnp.zeros(d, dtype), jnp.eye(d, dtype=dtype))
    return ProductOfExperts(features, linear, jnp.zeros((), dtype), n)
