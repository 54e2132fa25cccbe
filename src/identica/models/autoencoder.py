"""An encoder and a decoder without any probabilities, and a discriminator that may watch its latents."""

import equinox as eqx

from identica.models.contrastive import FeatureNetwork
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array


class AutoencoderModel(eqx.Module):
    """z = g(x), x̂ = f(z); and D(z), the log-odds that rows of z are as they came and not shuffled.

    Attributes
    ----------
    encoder : FeatureNetwork
        g, d columns to n latents.
    decoder : MultilayerPerceptron
        f, n latents to d columns.
    discriminator : MultilayerPerceptron or None
        D, n latents to one output; None where nothing asks for independence.
    """

    encoder: FeatureNetwork
    decoder: MultilayerPerceptron
    discriminator: MultilayerPerceptron | None = None

    def sources(self, x: Array) -> Array:
        """(B, d) to (B, n)."""
        return self.encoder(x)

    def decoded(self, z: Array) -> Array:
        """(B, n) to (B, d)."""
        return self.decoder(z)

    def errors(self, x: Array) -> Array:
        """Mean squared error over the columns of each row (B,), in units of standardised columns."""
        return ((x - self.decoder(self.encoder(x))) ** 2).mean(-1)
