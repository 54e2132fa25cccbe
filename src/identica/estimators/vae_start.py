"""First autoencoders of `VAE`: principal components, with small networks beside them or learned by plain ones."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from identica.conditionals import (
    Conditional,
    ConstantPrior,
    Decoder,
    DiagonalEncoder,
    Features,
    GaussianMixturePrior,
    Observation,
)
from identica.conditionals.encoders import encoded_columns
from identica.data import Dataset
from identica.estimators.ivae_start import encoder_features
from identica.models import LatentVariableModel, VariationalModel
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import FloatArray, Key

_FIRST_NOISE = 0.05
"""Added to the first noise variance, in units of the standardised columns: a network that starts
almost without noise stays near the linear map, 1.2 nats per row short on Figure 1."""

_LOG_VARIANCE = -2.0
"""Of the first posteriors."""

_FITTED_ROWS, _RIDGE = 4096, 0.1
"""Rows on which plain networks first learn to compute principal components, and the ridge of their last layers, as
a share of the mean variance of hidden units."""


@dataclass(frozen=True)
class FirstAutoencoder:
    """What every restart begins with, but for its random weights.

    Attributes
    ----------
    features : Features
        Of the encoder. With a shortcut their first n columns are white scores.
    observation : Observation
        With its noise at the residual variance.
    hidden_sizes : tuple of int
    activation : str
    n_components : int
    weight, bias : arrays (n, outputs) and (outputs,)
        Linear decoder of the scores.
    scores : (N, n)
        Latents of the linear start, in which the clusters of a mixture are found.
    inputs : (at most 4096, r)
        Features of the first rows.
    shortcut : bool
        Whether networks have a linear map beside their hidden layers. Without it their hidden layers are random, and
        their last ones fitted to what the linear map would say.
    n_clusters : int
        Parts of a Gaussian mixture as prior; 0 for N(0, I).
    """

    features: Features
    observation: Observation
    hidden_sizes: tuple[int, ...]
    activation: str
    n_components: int
    weight: FloatArray
    bias: FloatArray
    scores: FloatArray
    inputs: FloatArray
    shortcut: bool
    n_clusters: int

    @classmethod
    def from_rows(
        cls,
        x: FloatArray,
        n: int,
        observation: Observation,
        *,
        encoding: str,
        sizes: tuple[int, ...],
        hidden_sizes: tuple[int, ...],
        activation: str,
        shortcut: bool,
        n_clusters: int,
        dtype: np.dtype,
    ) -> "FirstAutoencoder":
        """From fitted rows x (N, d), as the model sees them; ``encoding`` and ``sizes`` are those of `Features`."""
        linear = encoder_features(x, n, encoding=encoding, sizes=sizes, dtype=dtype)
        scores = np.asarray(linear(jnp.asarray(x, dtype)), np.float64)[:, :n]
        features = linear if shortcut else _centred(x, encoding, sizes, dtype)
        weight, bias, observation = observation.linear_start(scores, x, extra_variance=_FIRST_NOISE)
        return cls(
            features,
            observation,
            hidden_sizes,
            activation,
            n,
            weight.astype(dtype),
            bias.astype(dtype),
            scores,
            np.asarray(features(jnp.asarray(x[:_FITTED_ROWS], dtype))),
            shortcut,
            n_clusters,
        )

    @property
    def prepare(self) -> Callable[[VariationalModel | None, Dataset, Key], VariationalModel]:
        """The first system of each restart."""

        def create(system: VariationalModel | None, data: Dataset, key: Key) -> VariationalModel:
            encoder_key, decoder_key, prior_key = jax.random.split(key, 3)
            n, inputs = self.n_components, self.features.matrix.shape[1]
            decoder = self._network(n, self.weight.shape[1], decoder_key)
            encoder = self._network(inputs, 2 * n, encoder_key)
            if self.shortcut:
                decoder = decoder.with_linear_part(self.weight, self.bias)  # type: ignore[arg-type]
                linear = np.zeros((inputs, 2 * n), self.weight.dtype)
                linear[:n, :n] = np.eye(n)
                log_variance = np.repeat([0.0, _LOG_VARIANCE], n).astype(self.weight.dtype)
                encoder = encoder.with_linear_part(linear, log_variance)  # type: ignore[arg-type]
            else:
                scores = self.scores[:_FITTED_ROWS]
                decoder = decoder.with_last_layer_fitted(scores, scores @ self.weight + self.bias, _RIDGE)
                posterior = np.concatenate([scores, np.full_like(scores, _LOG_VARIANCE)], axis=1)
                encoder = encoder.with_last_layer_fitted(self.inputs, posterior, _RIDGE)
            model = LatentVariableModel(self._prior(prior_key), Decoder(decoder, self.observation))
            return VariationalModel(model, DiagonalEncoder(self.features, encoder))

        return create

    def _network(self, inputs: int, outputs: int, key: Key) -> MultilayerPerceptron:
        return MultilayerPerceptron.random(
            inputs,
            self.hidden_sizes,
            outputs,
            activation=self.activation,
            shortcut=self.shortcut,
            last_scale=0.1 if self.shortcut else 1.0,
            key=key,
        )

    def _prior(self, key: Key) -> Conditional:
        if not self.n_clusters:
            return ConstantPrior(self.n_components)
        seed = int(np.asarray(jax.random.key_data(key)).ravel()[-1]) % 2**31
        return GaussianMixturePrior.from_rows(
            self.scores, self.n_clusters, seed=seed, dtype=self.weight.dtype
        )


def _centred(x: FloatArray, encoding: str, sizes: tuple[int, ...], dtype: np.dtype) -> Features:
    """Columns less their means, on one common scale: what a plain network is given."""
    columns = np.asarray(encoded_columns(x, encoding, sizes), np.float64)  # type: ignore[arg-type]
    matrix = np.eye(columns.shape[1]) / np.sqrt(columns.var(axis=0).mean())
    center = columns.mean(axis=0)
    return Features(jnp.asarray(center, dtype), jnp.asarray(matrix, dtype), encoding, sizes)
