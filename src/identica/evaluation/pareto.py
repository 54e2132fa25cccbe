"""How heavy the tail of importance weights is: the Pareto shape k̂."""

import math

import jax.numpy as jnp
from jax import lax

from identica.typing import Array

GOOD, USABLE = 0.5, 0.7
"""Below the first bound weights have a finite variance and estimates are good; above the second the
largest weights decide and no error estimate can be trusted."""

_FEWEST_IN_TAIL = 5
_PRIOR_SCALE = 3.0
_PRIOR_WEIGHT, _PRIOR_SHAPE = 10.0, 0.5


def tail_length(count: int) -> int:
    """How many of `count` weights make up the tail: min(K/5, 3√K), rounded up (Vehtari et al., 2024, app. G).

    Examples
    --------
    >>> tail_length(5000)
    213
    """
    return math.ceil(min(0.2 * count, 3 * math.sqrt(count)))


def pareto_k(log_weights: Array) -> Array:
    """Shape k̂ of a generalised Pareto law fitted to the largest weights of each row.

    k̂ estimates how many moments the weights have: 1/k̂. Below .5 the variance is finite; above .7 an
    average of the weights converges too slowly to be of use (Vehtari, Simpson, Gelman, Yao, Gabry, 2024,
    Pareto smoothed importance sampling, sections 2 and 3).

    Parameters
    ----------
    log_weights : (..., K)
        Nats, with any constant added.

    Returns
    -------
    (...) array
        k̂, shrunk towards .5 as ten more weights would. −inf where all weights of the tail are equal up to
        half of their digits: what is left is rounding, and there is no tail. NaN for fewer than 21 weights,
        too few to have a tail of five.

    Examples
    --------
    >>> import numpy as np
    >>> uniform = np.random.default_rng(0).random(10_000)
    >>> bool(abs(pareto_k(-0.8 * np.log(uniform)) - 0.8) < 0.15)  # u^(−.8) has shape .8
    True
    """
    log_weights = jnp.asarray(log_weights)
    length = tail_length(log_weights.shape[-1])
    if length < _FEWEST_IN_TAIL:
        return jnp.full(log_weights.shape[:-1], jnp.nan, log_weights.dtype)
    largest = lax.top_k(log_weights, length + 1)[0]
    weights = jnp.exp(largest - largest[..., :1])[..., ::-1]
    excess = weights[..., 1:] - weights[..., :1]
    spread = excess[..., -1] > math.sqrt(float(jnp.finfo(log_weights.dtype).eps))
    shape = generalized_pareto_shape(jnp.where(spread[..., None], excess, 1.0))
    return jnp.where(spread, shape, -jnp.inf)


def generalized_pareto_shape(excess: Array) -> Array:
    """Shape of the generalised Pareto law, by the posterior mean of Zhang and Stephens.

    The law has density (1 + k y/s)^(−1/k − 1)/s. The likelihood is profiled over k, and θ = −k/s averaged
    over a grid that suits the data (Zhang, Stephens, 2009, A new and efficient estimation method for the
    generalized Pareto distribution, equations 9 to 12 with the opposite sign of k); k̂ is then shrunk.

    Parameters
    ----------
    excess : (..., M)
        Positive numbers in ascending order.

    Returns
    -------
    (...) array
    """
    count = excess.shape[-1]
    n_grid = 30 + int(math.sqrt(count))
    place = (jnp.arange(1, n_grid + 1, dtype=excess.dtype) - 0.5) / n_grid
    quartile = excess[..., int(count / 4 + 0.5) - 1]
    # Ties at the cutoff leave excesses of 0, by which nothing can be divided.
    quartile = jnp.maximum(quartile, jnp.finfo(excess.dtype).tiny * 1e6)
    largest = excess[..., -1:]
    theta = 1 / largest + (1 - 1 / jnp.sqrt(place)) / (_PRIOR_SCALE * quartile[..., None])
    # θ = 0 is the exponential law, where k = 0 and the formula is 0/0.
    theta = jnp.where(jnp.abs(theta * largest) < 1e-6, 1e-6 / largest, theta)

    def shape_at(theta: Array) -> Array:
        return jnp.log1p(-theta[..., None] * excess[..., None, :]).mean(-1)

    k = shape_at(theta)
    log_profile = count * (jnp.log(-theta / k) - k - 1)
    weight = jnp.exp(log_profile - log_profile.max(-1, keepdims=True))
    best = (theta * weight).sum(-1, keepdims=True) / weight.sum(-1, keepdims=True)
    k = shape_at(best)[..., 0]
    return (count * k + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (count + _PRIOR_WEIGHT)
