"""Reconstruction: fit a decoder, and a prior network, to latents that are given."""

from dataclasses import dataclass

import jax

from identica.conditionals import ModulatedPrior, NetworkMap, ProductOfExperts
from identica.data import Dataset, mean_over_rows
from identica.models.latent_variable import VariationalModel
from identica.typing import Array, Key


@dataclass(frozen=True)
class Reconstruction:
    """−mean log p(x|z) at z = m(x), the encoder held fixed; nats per row.

    A prior that is a network of u is fitted at the same time, by −log p(z|u); a table has a closed
    form and needs no steps.
    """

    def __call__(
        self, system: VariationalModel, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        prior, encoder = system.model.prior, system.encoder
        if not isinstance(encoder, ProductOfExperts):
            raise TypeError("reconstruction needs an encoder with a likelihood factor")
        z = jax.lax.stop_gradient(encoder.mean(batch.x))
        loss = -system.model.likelihood(z).log_prob(batch.x)  # type: ignore[operator]
        if isinstance(prior, ModulatedPrior) and isinstance(prior.parameters, NetworkMap):
            loss = loss - prior(batch.u).log_prob(z)  # type: ignore[operator]
        return mean_over_rows(loss, batch.weight), {}


@dataclass(frozen=True)
class HeldOutReconstruction:
    """The same on held-out rows."""

    def __call__(self, system: VariationalModel, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return Reconstruction()(system, held_out, key=key)[0]
