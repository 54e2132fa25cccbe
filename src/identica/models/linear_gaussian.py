"""The linear Gaussian decoder, whose posterior and likelihood are exact."""

import jax.numpy as jnp
import numpy as np

from identica.conditionals import Conditional, Decoder, Features, GaussianObservation, ProductOfExperts
from identica.conditionals.observations import NOISE_FLOOR
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array


def exact_encoder(decoder: Conditional) -> ProductOfExperts | None:
    """The encoder whose posterior is exact, if p(x|z) is linear and Gaussian with constant noise.

    For x = z W + c + noise of variance Ψ the likelihood as a function of z has precision
    Λ = W Ψ⁻¹ Wᵀ and mean m(x) = Λ⁻¹ W Ψ⁻¹ (x − c) (Bishop, 2006, section 12.2). With a Gaussian prior the
    variational bound then equals log p(x|u). Returns None for any other decoder.
    """
    if not isinstance(decoder, Decoder) or not isinstance(decoder.observation, GaussianObservation):
        return None
    network, observation = decoder.network, decoder.observation
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
    n, d = weight.shape
    precision = (weight / noise) @ weight.T
    # A component that the decoder ignores has precision 0; the ridge keeps its m finite.
    precision += 1e-7 * np.trace(precision) / n * np.eye(n)
    to_mean = np.linalg.solve(precision, weight / noise).T
    dtype = only_weight.dtype
    out = np.concatenate([to_mean, np.zeros((d, n * n + n))], axis=1)
    root = np.linalg.cholesky(precision)
    start = np.concatenate([-bias @ to_mean, root.ravel(), np.zeros(n)])
    linear = MultilayerPerceptron((jnp.asarray(out, dtype),), (jnp.asarray(start, dtype),), None)
    features = Features(jnp.zeros(d, dtype), jnp.eye(d, dtype=dtype))
    return ProductOfExperts(features, linear, jnp.zeros((), dtype), n)
