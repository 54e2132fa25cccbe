"""Objectives of autoencoders: reconstruction, a discriminator against shuffled columns, and how to rank fits.

Nothing here is a likelihood. Errors are mean squares per standardised column, 1 for a constant.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from identica.data import Dataset, mean_over_rows
from identica.models.autoencoder import AutoencoderModel
from identica.typing import Array, Key

DEPENDENCE_ROWS = 512
"""Most rows of which distances to each other are taken."""

_SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Reconstruction:
    """Mean squared error of standardised columns."""

    def __call__(
        self, system: AutoencoderModel, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        return mean_over_rows(system.errors(batch.x), batch.weight), {}


@dataclass(frozen=True)
class AdversarialReconstruction:
    """mean |x − f(g(x))|² + λ max_D ½ (E log D(z) + E log(1 − D(z̃))), a game of g and f against D.

    z̃ are rows whose columns are shuffled independently of each other (Brakel and Bengio, 2017): D tells p(z)
    from the product of its marginals, and g makes that hard. Both move in each step: D descends its
    cross-entropy, whose gradient reaches the encoder with its sign changed, times λ. D sees z with mean 0 and
    variance 1 in the batch, so that scale is no way out.

    Attributes
    ----------
    weight : float
        λ.
    """

    weight: float

    def __call__(
        self, system: AutoencoderModel, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        z = system.encoder(batch.x)
        error = ((batch.x - system.decoder(z)) ** 2).mean(-1)
        loss = discriminator_loss(system, _reversed(z, self.weight), batch.weight, key)
        total = mean_over_rows(error, batch.weight) + loss
        return total, {"discriminator": loss}


@dataclass(frozen=True)
class HeldOutReconstruction:
    """Held-out error plus λ times what `dependence` finds between held-out latents; ranks restarts.

    The discriminator is no judge of its own game: one that has failed to learn sees independence
    everywhere. So an untrained measure takes its place. λ = 0 leaves the error alone.
    """

    weight: float = 0.0

    def __call__(self, system: AutoencoderModel, data: Dataset, held_out: Dataset, key: Key) -> Array:
        error = mean_over_rows(system.errors(held_out.x), held_out.weight)
        if not self.weight:
            return error
        part = held_out.head(DEPENDENCE_ROWS)
        return error + self.weight * dependence(system.encoder(part.x), part.weight)


def discriminator_loss(system: AutoencoderModel, z: Array, weight: Array | None, key: Key) -> Array:
    """Cross-entropy of D between rows of z (B, n) and rows with shuffled columns, nats; log 2 is chance."""
    network = system.discriminator
    if network is None:
        raise TypeError("this autoencoder has no discriminator")
    joint = network(_standardised(z, weight))[:, 0]
    shuffled = network(_standardised(shuffled_columns(z, weight, key), weight))[:, 0]
    losses = jax.nn.softplus(-joint) + jax.nn.softplus(shuffled)
    return 0.5 * mean_over_rows(losses, weight)


def discriminator_accuracy(system: AutoencoderModel, z: Array, weight: Array | None, key: Key) -> Array:
    """Share of rows of z (B, n), and of shuffled ones, that D takes for what they are; .5 is chance."""
    network = system.discriminator
    if network is None:
        raise TypeError("this autoencoder has no discriminator")
    joint = network(_standardised(z, weight))[:, 0]
    shuffled = network(_standardised(shuffled_columns(z, weight, key), weight))[:, 0]
    return 0.5 * mean_over_rows((joint > 0) * 1.0 + (shuffled <= 0) * 1.0, weight)


def shuffled_columns(z: Array, weight: Array | None, key: Key) -> Array:
    """z (B, n) with each column permuted over the rows that count, independently of the others."""
    order = jax.random.uniform(key, z.shape)
    if weight is None:
        return jnp.take_along_axis(z, jnp.argsort(order, axis=0), axis=0)
    real = (weight > 0)[:, None]
    # Rows that count come first in either order, so that they change places among themselves.
    source = jnp.argsort(jnp.where(real, order, 2.0), axis=0)
    place = jnp.argsort(jnp.where(real, 0.0, 2.0), axis=0, stable=True)[:, 0]
    return jnp.zeros_like(z).at[place].set(jnp.take_along_axis(z, source, axis=0))


def dependence(z: Array, weight: Array | None = None) -> Array:
    """Mean squared distance correlation of all pairs of columns of z (B, n), from 0 to 1; 0 for one column.

    0 in the limit of many rows if and only if each pair is independent (Székely, Rizzo and Bakirov, 2007). Of
    few rows it is positive by chance, for all fits alike.
    """
    n = z.shape[1]
    if n < 2:
        return jnp.zeros((), z.dtype)
    share = jnp.full(len(z), 1.0 / len(z), z.dtype) if weight is None else weight / weight.sum()
    distance = jnp.abs(z.T[:, :, None] - z.T[:, None, :])
    rows = distance @ share
    grand = rows @ share
    centred = distance - rows[:, :, None] - rows[:, None, :] + grand[:, None, None]
    root = jnp.sqrt(share)
    flat = (centred * root[:, None] * root[None, :]).reshape(n, -1)
    covariance = flat @ flat.T
    # Of a constant column, and of a single row, all distances are 0.
    spread = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance), 1e-30))
    correlation = jnp.maximum(covariance, 0.0) / spread[:, None] / spread[None, :]
    return (correlation.sum() - jnp.trace(correlation)) / (n * (n - 1))


def _standardised(z: Array, weight: Array | None) -> Array:
    share = jnp.full(len(z), 1.0 / len(z), z.dtype) if weight is None else weight / weight.sum()
    centred = z - share @ z
    return centred / jnp.sqrt(share @ centred**2 + _SMALLEST_SPREAD)


def _reversed(z: Array, weight: float) -> Array:
    """z, whose gradient is multiplied by −weight on its way back (Ganin and Lempitsky, 2015)."""
    return -weight * z + jax.lax.stop_gradient((1 + weight) * z)
